"""Probes: one protocol and a registry.

A probe is a frozen settings dataclass and a function that turns a :class:`Task` into a :class:`Prediction`, named
together by a :class:`ProbeEntry`. Splits, unlabelled videos, coverage, metrics and intervals are handled once, in
:mod:`featcache.evaluation.run`. ``docs/adding-a-probe.md`` says how a package adds a probe; featcache's own probes are
declared in :mod:`featcache.evaluation.probes`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError
from featcache.evaluation.data import ProbeData
from featcache.evaluation.parts import NOTHING_KEPT, Parts
from featcache.evaluation.pooling import Pool
from featcache.plugins import Place, Registry, import_target
from featcache.recipes import PositionForm
from featcache.stages import OnStage, ignore

Predicts = Literal["classes", "numbers", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training set and the videos to score.

    Attributes:
        data: All data; a probe learns only from the labels of ``train``.
        train: int64 [A], indices of training videos, all labelled, of at least two classes.
        test: int64 [B], sorted indices of the videos to score. Either disjoint from ``train`` or, for probes
            registered with ``leaves_one_out``, equal to it.
        device: Device of the computation, e.g. ``cpu`` or ``cuda``.
        on_stage: Called with the progress of the probe, if it reports any.
        parts: Where the probe may keep finished parts, so that it goes on with the others after it was killed.
    """

    data: ProbeData
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    device: str
    on_stage: OnStage = ignore
    parts: Parts = NOTHING_KEPT

    @property
    def leaves_one_out(self) -> bool:
        """Whether each video is scored by all others; a video's own group must not help to score it then."""
        return np.array_equal(self.train, self.test)

    def groups_of(self, videos: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [len(videos)], group numbers of the videos, or a number per video if no groups are known.

        Probes use them to divide the training videos, e.g. for validation, without separating a group.
        """
        return videos if self.data.groups is None else self.data.groups[videos]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A probe's scores for a task's test videos.

    Attributes:
        scores: float [S, B, num_classes], one slice per seed; the highest score wins; -inf for a class that the
            training videos lack or that cannot win. For regression the predicted number, [S, B, 1].
        variants: Other scores of the same shape, by name (``k=5``), reported beside the main ones.
        table: Rows about the training, such as the grid of heads, as JSON-ready values.
        notes: Sentences about deviations from the request.
        seeds: S numbers of the seeds; empty: 0 to S - 1.
        ks: For a retrieval, numbers of nearest training videos: the metrics are then ``r@k`` in place of accuracies,
            and the score of a class is minus the number of training videos that are nearer than the first of that
            class, or -inf if it is not among those searched, at least the largest k.
    """

    scores: npt.NDArray[np.floating]
    variants: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    table: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    ks: tuple[int, ...] = ()


S_contra = TypeVar("S_contra", contravariant=True)


class Probe(Protocol[S_contra]):
    """Learns from the training videos of a task and scores its test videos."""

    def __call__(self, task: Task, settings: S_contra, /) -> Prediction:
        """``task.test`` is sorted, and scores have its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEntry:
    """One probe.

    Attributes:
        probe: The function, or its place (``module:function``), so that its imports are made only when it runs.
        settings: Class of its settings, a frozen dataclass; calling it gives the defaults.
        leaves_one_out: Whether a video's own rows never help to score it, so that a store without splits is scored
            in one call with ``test`` equal to ``train``. Other probes are trained fold by fold.
        leaves_groups_out: Whether no training video of a video's own group helps to score it, whatever the splits.
        predicts: Kind of labels: classes, numbers, or both.
        positions: A function of the settings, or its place, that gives the form of the clip positions which the probe
            uses. ``None``: it uses no positions.
        pool: A function of the settings, or its place, that says how stored maps become the vectors that the probe
            reads. ``None``: they are averaged over all positions.
        takes_float16: Whether the probe converts the rows that it takes to float32 itself, so that rows which are
            stored as float16 stay float16. Otherwise it is given all rows as float32.
        inputs: A function of the settings, or its place, that gives digests of the files which settings name, by the
            name of the setting. They count for the identity of a run in place of the paths. ``None``: there are none.
    """

    probe: Probe[Any] | str
    settings: type[Any]
    leaves_one_out: bool = False
    leaves_groups_out: bool = False
    predicts: Predicts = "classes"
    positions: Callable[[Any], PositionForm | None] | str | None = None
    pool: Callable[[Any], Pool] | str | None = None
    takes_float16: bool = False
    inputs: Callable[[Any], Mapping[str, str]] | str | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.settings, type) and dataclasses.is_dataclass(self.settings)):
            raise ConfigError(f"settings of a probe are {self.settings!r}; give a dataclass")
        if self.predicts not in get_args(Predicts):
            raise ConfigError(f"predicts is {self.predicts!r}; give one of {', '.join(get_args(Predicts))}")

    def run(self, task: Task, settings: object) -> Prediction:
        """Learn from the training videos of a task and score its test videos."""
        probe: Probe[Any] = import_target(self.probe) if isinstance(self.probe, str) else self.probe
        if not self.takes_float16 and task.data.features.dtype != np.float32:
            data = dataclasses.replace(task.data, features=task.data.features.astype(np.float32))
            task = dataclasses.replace(task, data=data)
        return probe(task, settings)

    def position_form(self, settings: object) -> PositionForm | None:
        """The form of the clip positions that the probe uses with these settings; ``None``: it uses no positions."""
        form = import_target(self.positions) if isinstance(self.positions, str) else self.positions
        found: PositionForm | None = None if form is None else form(settings)
        return found

    def pool_of(self, settings: object) -> Pool:
        """How stored maps become the vectors that the probe reads with these settings."""
        pool = import_target(self.pool) if isinstance(self.pool, str) else self.pool
        found: Pool = "mean" if pool is None else pool(settings)
        return found

    def input_digests(self, settings: object) -> Mapping[str, str]:
        """Digests of the files that settings name, by the name of the setting."""
        inputs = import_target(self.inputs) if isinstance(self.inputs, str) else self.inputs
        found: Mapping[str, str] = {} if inputs is None else inputs(settings)
        return found


PROBES: Registry[ProbeEntry] = Registry(
    kind="probe",
    group="featcache.probes",
    entry=ProbeEntry,
    built_in=tuple(
        Place(name=name, target=f"featcache.evaluation.probes:{name.replace('-', '_').upper()}", summary=summary)
        for name, summary in {
            "knn": "weighted nearest neighbours by cosine",
            "retrieval": "share of videos whose class is among the k nearest training videos (R@k)",
            "linear": "linear classifier; a whole grid of heads in one pass",
            "ridge": "ridge regression of numbers on video means",
            "mlp": "classifier on each clip and an MLP of it",
            "transformer": "set predictor from random weights, trained whole",
            "scale-linear": "linear classifier on clips and the summary of their set by a frozen predictor",
            "scale-ft": "pre-trained set predictor, trained further with a linear classifier",
        }.items()
    ),
    hint="Run `featcache probe --help` for the list.",
)


def find_probe(name: str) -> ProbeEntry:
    """Find a probe by name; see :meth:`featcache.plugins.Registry.load`."""
    return PROBES.load(name)
