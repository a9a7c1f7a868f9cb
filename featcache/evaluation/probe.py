"""Probes: one protocol and a registry.

To add a probe, write one file in this folder: a frozen settings dataclass and a function decorated by
:func:`register_probe` that turns a :class:`Task` into a :class:`Prediction`. Splits, unlabelled videos, coverage,
metrics and intervals are dealt with once, in :mod:`featcache.evaluation.run`; the conformance suite in
``featcache.testing`` picks the probe up by name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

import featcache.evaluation
from featcache.errors import unknown_name
from featcache.evaluation.data import ProbeData
from featcache.recipes import PositionForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training set and the videos to score.

    Attributes:
        data: Everything; a probe learns from the labels of ``train`` alone.
        train: int64 [A], indices of training videos, all labelled, of at least two classes.
        test: int64 [B], sorted indices of the videos to score. Either disjoint from ``train`` or, for probes
            registered with ``leaves_one_out``, equal to it.
        device: Where to compute, e.g. ``cpu`` or ``cuda``.
    """

    data: ProbeData
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a probe says of a task's test videos.

    Attributes:
        scores: float [S, B, num_classes], one slice a seed; the highest score wins; -inf for a class that the
            training videos lack or that cannot win. Where numbers are predicted: the number, [S, B, 1].
        variants: Other scores of the same shape, by name (``k=5``), reported beside the main ones.
        table: Rows about the training, such as the grid of heads, as JSON-ready values.
        notes: Sentences about what was done otherwise than asked.
    """

    scores: npt.NDArray[np.floating]
    variants: Mapping[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    table: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


S_contra = TypeVar("S_contra", contravariant=True)
S = TypeVar("S")


class Probe(Protocol[S_contra]):
    """Learns from the training videos of a task and scores its test videos."""

    def __call__(self, task: Task, settings: S_contra, /) -> Prediction:
        """``task.test`` is sorted; scores come in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEntry:
    """One registered probe.

    Attributes:
        name: Registry name.
        summary: One line for lists.
        settings: Its settings dataclass; calling it gives the defaults.
        run: The probe.
        leaves_one_out: Whether a video's own rows never help to score it, so that a store without splits is scored
            in one call with ``test`` equal to ``train``. Other probes are trained fold by fold.
        predicts: What labels may be: classes, numbers, or both.
        position_form: In which form, with these settings, it looks at where clips lie in their videos; ``None`` if not
            at all.
    """

    name: str
    summary: str
    settings: type[Any]
    run: Probe[Any]
    leaves_one_out: bool
    predicts: Literal["classes", "numbers", "both"]
    position_form: Callable[[Any], PositionForm | None]


_ENTRIES: dict[str, ProbeEntry] = {}


def no_positions(settings: object) -> PositionForm | None:
    """The form of a probe that never looks at positions."""
    return None


def register_probe(
    name: str,
    *,
    summary: str,
    settings: type[S],
    leaves_one_out: bool = False,
    predicts: Literal["classes", "numbers", "both"] = "classes",
    position_form: Callable[[S], PositionForm | None] = no_positions,
) -> Callable[[Probe[S]], Probe[S]]:
    """Register a probe under ``name``; a name can be taken once."""

    def register(run: Probe[S]) -> Probe[S]:
        if name in _ENTRIES:
            raise ValueError(f"probe {name!r} is registered already")
        _ENTRIES[name] = ProbeEntry(
            name=name,
            summary=summary,
            settings=settings,
            run=run,
            leaves_one_out=leaves_one_out,
            predicts=predicts,
            position_form=position_form,
        )
        return run

    return register


def probe_entries() -> dict[str, ProbeEntry]:
    """All probes by name: every module of this folder is imported, so that a new file is found."""
    for module in pkgutil.iter_modules(featcache.evaluation.__path__):
        importlib.import_module(f"featcache.evaluation.{module.name}")
    return dict(sorted(_ENTRIES.items()))


def find_probe(name: str) -> ProbeEntry:
    """The probe registered under ``name``.

    Raises:
        UnknownNameError: There is none; names the closest.
    """
    entries = probe_entries()
    if name not in entries:
        raise unknown_name("probe", name, entries)
    return entries[name]
