"""``probe``: measure how well the features of a store predict labels, with any registered probe."""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from featcache.config import Settings, to_yaml
from featcache.metrics.settings import IntervalSettings
from featcache.stages import OnStage, ignore
from featcache.summary import Summary

if TYPE_CHECKING:
    from featcache.evaluation.result import ProbeResult


class ProbeTarget(Settings):
    """Settings that all probes have."""

    command: str
    """The command this file repeats."""
    store: str
    """The store."""
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
    device: str = "auto"
    """Device of the computation: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder for the result and this file; null: ``runs/<store>/<probe>-<hash>``."""
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
    """

    result: "ProbeResult"
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**self.result.to_dict(), "out": self.folder}

    def summary(self) -> Summary:
        """The summary to print."""
        shown = self.result.summary()
        return replace(shown, lines=(*shown.lines, f"written to {self.folder}"))


def measure(settings: ProbeTarget, name: str, own: Any) -> "tuple[ProbeTarget, ProbeResult]":
    """Read the features and labels of a store, and probe them.

    Args:
        settings: Settings that all probes have.
        name: Registry name of the probe.
        own: The probe's own settings.

    Returns:
        The settings with the feature and the split column that were null in them, and the result.
    """
    from featcache.evaluation.probe import find_probe
    from featcache.evaluation.reading import check_labels, read_data
    from featcache.store.reader import open_store

    check_labels(open_store(settings.store), feature=settings.feature, label=settings.label)  # before torch is imported
    data = read_data(
        Path(settings.store),
        feature=settings.feature,
        label=settings.label,
        split_column=settings.split_column,
        positions=find_probe(name).position_form(own),
        numbers=settings.numbers,
        group_column=settings.group_column,
    )

    from featcache.evaluation.run import run_probe  # imports torch: the store and its labels are looked at first

    result = run_probe(
        name,
        data,
        own,
        intervals=settings.intervals,
        train_split=settings.train_split,
        test_splits=settings.test_splits,
        device=settings.device,
        low_shot=settings.low_shot,
    )
    return settings.model_copy(update={"feature": data.feature, "split_column": data.split_column}), result


def probe(settings: ProbeTarget, *, on_stage: OnStage = ignore) -> Probed:
    """Carry out a probe, and write its result and its settings into a folder.

    Args:
        settings: Settings of the class that :func:`probe_settings` returns.
        on_stage: Never called: probes report no progress.
    """
    from featcache.files.publish import put_replace
    from featcache.metrics.predictions import write_predictions

    name = settings.command.removeprefix("probe-")
    resolved, result = measure(settings, name, getattr(settings, own_key(name)))
    text = to_yaml(resolved)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = Path(settings.out or Path("runs") / Path(settings.store).name / f"{name}-{digest}")
    put_replace(folder / "config.yaml", text.encode())
    write_predictions(folder, result.predictions)
    put_replace(folder / "result.json", result.to_json().encode())
    return Probed(result=result, folder=str(folder))
