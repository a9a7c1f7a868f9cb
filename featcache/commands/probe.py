"""``probe``: measure how well the features of a store predict labels, with any registered probe."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from featcache.config import Aside, Input, Settings, read_json, to_yaml
from featcache.errors import CorruptStoreError, RecipeMismatchError
from featcache.files.sealed import read_sealed, seal
from featcache.metrics.settings import IntervalSettings
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.identity import Identity, identity_of

if TYPE_CHECKING:
    from featcache.evaluation.probe import ProbeEntry
    from featcache.evaluation.result import ProbeResult

FINISHED = "probe.json"
"""File that says, with the identity of the probe, that its folder is complete; it is written last."""
_FORMAT = "featcache-probe"


class ProbeTarget(Settings):
    """Settings that all probes have."""

    command: str
    """The command this file repeats."""
    store: Input[str]
    """The store."""
    test_store: Input[str | None] = None
    """Another store of the same feature, out of which the videos outside of ``train_split`` are read, e.g. one with
    larger test views; null: all videos are read out of ``store``."""
    feature: str | None = None
    """Name of the array; null: the only one of the store."""
    label: str = "label"
    """Label column."""
    split_column: str | None = None
    """Label column with the split, e.g. ``split2``; null: ``split_<label>`` if there is one, else the store's own."""
    group_column: str | None = None
    """Label column of which equal values belong together, e.g. clips of one recording: folds, choices, low-shot draws
    and intervals go by them; null: ``group`` where the store has it; ``none``: each video by itself."""
    train_split: str = "train"
    """Split to train on; a store without splits is probed by leaving videos out."""
    test_splits: tuple[str, ...] | None = None
    """Splits to score; null: all others."""
    low_shot: float | None = Field(default=None, gt=0, le=1)
    """Train on this share of each class's training videos, in list order: 0.1 is SCALE's 10 %; null: all."""
    numbers: bool = False
    """The labels are numbers to predict (regression), not classes."""
    device: Aside[str] = "auto"
    """Device of the computation: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    checkpoint_seconds: Aside[float] = Field(default=300.0, ge=0, allow_inf_nan=False)
    """Longest time between states of a training that a killed probe goes on from, in seconds, at the ends of epochs."""
    out: Aside[str | None] = None
    """Folder for the result and this file; null: ``runs/<store>/<probe>-<hash of settings and content>``."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""


def probe_summaries() -> dict[str, str]:
    """One line about each registered probe, by its name; one from outside names its package."""
    from featcache.evaluation.probe import PROBES

    return {place.name: place.line for place in PROBES.places()}


@functools.cache
def probe_settings(name: str) -> type[ProbeTarget]:
    """Settings of ``featcache probe NAME``: the common ones, and the probe's own settings under the probe's name.

    Raises:
        UnknownNameError: There is no such probe; names the closest.
    """
    from featcache.evaluation.probe import find_probe

    entry = find_probe(name)
    command = f"probe-{name}"
    fields: dict[str, Any] = {
        "command": (Literal[command], Field(default=command, description="The command this file repeats.")),
        own_key(name): (
            entry.settings,
            Field(default=entry.settings(), description="The probe's own settings."),
        ),
    }
    if entry.predicts == "numbers":
        fields["numbers"] = (bool, Field(default=True, description="It predicts nothing else."))
    kind: type[ProbeTarget] = create_model(
        f"{name.title().replace('-', '')}ProbeSettings", __base__=ProbeTarget, __module__=__name__, **fields
    )
    return kind


def own_key(name: str) -> str:
    """The key of a probe's own settings."""
    return name.replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The result of a probe and its folder.

    Attributes:
        result: The result.
        folder: Folder that holds ``result.json``, ``config.yaml``, ``predictions.parquet`` and confusion matrices.
        is_kept: Whether the result had been computed before.
    """

    result: "ProbeResult"
    folder: str
    is_kept: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**self.result.to_dict(), "out": self.folder}

    def summary(self) -> Summary:
        """The summary to print."""
        shown = self.result.summary()
        said = f"computed before and kept in {self.folder}" if self.is_kept else f"written to {self.folder}"
        return replace(shown, lines=(*shown.lines, said))


def with_own(target: ProbeTarget, name: str, own: Any) -> ProbeTarget:
    """The settings of one probe: those that all probes have, and its own."""
    shared = {key: getattr(target, key) for key in ProbeTarget.model_fields if key != "command"}
    return probe_settings(name)(**shared, **{own_key(name): own})


def probe(settings: ProbeTarget, *, on_stage: OnStage = ignore, root: Path | None = None) -> Probed:
    """Carry out a probe, and write its result, its predictions and its settings into a folder.

    A finished probe is not computed again, and a killed one goes on with what is left.

    Args:
        settings: Settings of the class that :func:`probe_settings` returns.
        on_stage: Called with the stage ``read`` and the stages of the training or the search.
        root: Folder of the default folder; ``None``: ``runs/<store>``.

    Raises:
        RecipeMismatchError: The folder holds another probe; names the first difference.
    """
    from featcache.evaluation.probe import find_probe
    from featcache.evaluation.reading import check_labels, open_source
    from featcache.evaluation.two_stores import check_alike, read_both
    from featcache.files.publish import put_replace
    from featcache.metrics.predictions import write_predictions
    from featcache.store.reader import open_store

    check_labels(open_store(settings.store), feature=settings.feature, label=settings.label)  # before torch is imported
    name = settings.command.removeprefix("probe-")
    own, entry = getattr(settings, own_key(name)), find_probe(name)
    places = {"store": settings.store} | ({} if settings.test_store is None else {"test_store": settings.test_store})
    sources = [
        open_source(
            Path(store),
            feature=settings.feature,
            label=settings.label,
            split_column=settings.split_column,
            positions=entry.position_form(own),
            numbers=settings.numbers,
            group_column=settings.group_column,
            pool=entry.pool_of(own),
        )
        for store in places.values()
    ]
    source = sources[0]
    if len(sources) == 2:
        check_alike(*sources)
    contents = {key: each.content() for key, each in zip(places, sources, strict=True)}
    resolved = settings.model_copy(update={"feature": source.features.name, "split_column": source.split_column})
    identity = _identity(resolved, entry, own, contents=contents)
    root = root or Path("runs") / Path(settings.store).name
    folder = Path(settings.out or root / f"{name}-{identity.digest[:12]}")
    if (finished := _finished(folder, identity)) is not None:
        for each in sources:
            each.features.close()
        return Probed(result=finished, folder=str(folder), is_kept=True)
    if len(sources) == 2:
        data = read_both(*sources, train_split=settings.train_split, on_stage=on_stage)
    else:
        data = source.read(on_stage=on_stage)

    from featcache.evaluation.parts import NAME, Parts
    from featcache.evaluation.run import run_probe  # imports torch: the store and its labels are looked at first

    parts = Parts(folder=folder / NAME, identity=identity, seconds=settings.checkpoint_seconds)
    result = run_probe(
        name,
        data,
        own,
        intervals=settings.intervals,
        train_split=settings.train_split,
        test_splits=settings.test_splits,
        device=settings.device,
        low_shot=settings.low_shot,
        on_stage=on_stage,
        parts=parts,
    )
    assert result.predictions is not None, "it was computed"
    put_replace(folder / "config.yaml", to_yaml(resolved).encode())
    write_predictions(folder, result.predictions)
    put_replace(folder / "result.json", result.to_json().encode())
    put_replace(folder / FINISHED, seal({"format": _FORMAT, "version": 1, "identity": dict(identity.values)}))
    parts.remove()
    return Probed(result=result, folder=str(folder))


def _identity(settings: ProbeTarget, entry: "ProbeEntry", own: Any, *, contents: Mapping[str, str]) -> Identity:
    """The identity of a probe: its settings, and what it reads by content."""
    name = own_key(settings.command.removeprefix("probe-"))
    inputs = entry.input_digests(own)
    plain = settings.model_copy(update={name: replace(own, **dict.fromkeys(inputs))})  # content counts, not the path
    named = {f"{name}.{key}": digest for key, digest in inputs.items()}
    return identity_of(plain, inputs={**contents, **named}, seed=0)


def _finished(folder: Path, identity: Identity) -> "ProbeResult | None":
    """The result of a folder in which this probe was finished.

    Raises:
        RecipeMismatchError: Another probe was finished there.
    """
    if not (folder / FINISHED).exists():
        return None
    saved = read_sealed(folder / FINISHED, what="record of a finished probe")
    if saved.get("format") != _FORMAT or not isinstance(saved.get("identity"), dict):
        raise CorruptStoreError(f"{folder / FINISHED} is not the record of a probe; choose another folder")
    if difference := identity.difference(saved["identity"]):
        raise RecipeMismatchError(
            f"{folder} holds a probe {difference}; choose another --out, or delete it to start anew"
        )
    if not (folder / "result.json").exists() or not (folder / "predictions.parquet").exists():
        return None
    from featcache.evaluation.result import ProbeResult

    return ProbeResult.from_dict(read_json(folder / "result.json", what="result of `featcache probe`"))
