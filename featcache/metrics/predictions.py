"""What a run predicted for each test video: a Parquet file, and confusion matrices."""

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featcache.data.parquet import UnreadableTableError, read_table
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.metrics.intervals import nearer_than_truth, rank_of_truth
from featcache.metrics.splits import Groups

NAME = "predictions.parquet"
"""Name of the file in a run's folder."""
_ABOUT = b"featcache.predictions"
_COLUMNS = ("seed", "split", "video", "group", "label", "predicted", "correct", "rank", "scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Scores of a run's test videos under each seed.

    Attributes:
        videos: M ids of the scored videos.
        splits: M names of their splits.
        groups: int64 [M], groups of nearly identical videos; ``None``: no groups are known.
        label: Name of the label column.
        labels: M labels: names of classes, or numbers as text.
        classes: C names of classes in the order of the scores; empty for regression.
        seeds: S numbers, one per slice of the scores.
        scores: float [S, M, C], the highest wins; for regression the predicted number, [S, M, 1].
        ks: For a retrieval, the numbers of neighbours that are reported; scores are then minus the number of videos
            that are nearer than the first of each class. Empty: the scores are of any other kind.
    """

    videos: tuple[str, ...]
    splits: tuple[str, ...]
    groups: Groups | None
    label: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: npt.NDArray[np.floating]
    ks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.seeds), len(self.videos), max(1, len(self.classes)))
        assert self.scores.shape == shape, f"scores have shape {self.scores.shape}, not {shape}"
        assert len(self.splits) == len(self.labels) == len(self.videos), "one split and one label per video"
        assert self.groups is None or len(self.groups) == len(self.videos), "one group per video"

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """int64 [M], place of each label among the classes."""
        places = {name: place for place, name in enumerate(self.classes)}
        return np.array([places[name] for name in self.labels], np.int64)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """int64 [S, M], place of the class with the highest score; the first one among equals."""
        best: npt.NDArray[np.int64] = self.scores.argmax(axis=2).astype(np.int64)
        return best

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """float64 [S, M], number of classes before the true one.

        Of a retrieval, number of videos before the first of the true class; infinity if none was found.
        """
        if self.ks:
            return nearer_than_truth(self.scores, self.truth)
        return rank_of_truth(self.scores, self.truth).astype(np.float64)

    def confusion(self, split: str) -> npt.NDArray[np.int64]:
        """int64 [C, C], numbers of videos of a split by true (rows) and predicted class, over all seeds."""
        mine = np.array(self.splits) == split
        table = np.zeros((len(self.classes), len(self.classes)), np.int64)
        truth = np.broadcast_to(self.truth[mine], self.predicted[:, mine].shape)
        np.add.at(table, (truth, self.predicted[:, mine]), 1)
        return table


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write ``predictions.parquet`` and, for classes, ``confusion-<split>.csv`` for each split.

    The table has one row per seed and video: ``seed``, ``split``, ``video``, ``group`` (null: not known), ``label``,
    ``predicted``, ``correct``, ``rank`` (number of classes before the true one; of a retrieval, number of nearer videos
    before the first of the true class, null if none was found) and ``scores`` (float32, in the order of the classes,
    which are in the metadata of the schema). For regression, ``label`` and ``predicted`` are numbers, and ``correct``
    and ``rank`` are null.
    """
    num_seeds, num_videos = predictions.scores.shape[:2]
    num_rows, width = num_seeds * num_videos, predictions.scores.shape[2]
    is_numbers = not predictions.classes
    scores = predictions.scores.astype(np.float32).reshape(-1)
    columns: dict[str, Any] = {
        "seed": pa.array(np.repeat(predictions.seeds, num_videos), pa.int64()),
        "split": pa.array(list(predictions.splits) * num_seeds, pa.string()),
        "video": pa.array(list(predictions.videos) * num_seeds, pa.string()),
        "group": pa.nulls(num_rows, pa.int64())
        if predictions.groups is None
        else pa.array(np.tile(predictions.groups, num_seeds), pa.int64()),
    }
    if is_numbers:
        columns["label"] = pa.array([float(text) for text in predictions.labels] * num_seeds, pa.float64())
        columns["predicted"] = pa.array(predictions.scores.astype(np.float64).reshape(-1), pa.float64())
        columns["correct"], columns["rank"] = pa.nulls(num_rows, pa.bool_()), pa.nulls(num_rows, pa.int64())
    else:
        ranks = predictions.ranks.reshape(-1)
        is_found = np.isfinite(ranks)
        columns["label"] = pa.array(list(predictions.labels) * num_seeds, pa.string())
        columns["predicted"] = pa.array([predictions.classes[place] for place in predictions.predicted.reshape(-1)])
        columns["correct"] = pa.array(ranks == 0)
        columns["rank"] = pa.array(np.where(is_found, ranks, 0).astype(np.int64), pa.int64(), mask=~is_found)
    columns["scores"] = pa.FixedSizeListArray.from_arrays(pa.array(scores), width)
    about = {"version": 1, "label": predictions.label, "classes": list(predictions.classes), "ks": list(predictions.ks)}
    table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    put_replace(folder / NAME, buffer.getvalue())
    if not is_numbers:
        for split in dict.fromkeys(predictions.splits):
            put_replace(folder / f"confusion-{_slug(split)}.csv", _matrix(predictions, split).encode())


def _matrix(predictions: Predictions, split: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *predictions.classes])
    for name, counts in zip(predictions.classes, predictions.confusion(split).tolist(), strict=True):
        writer.writerow([name, *counts])
    return text.getvalue()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """The part of a run's predictions that comparisons need.

    Attributes:
        label: Name of the label column.
        metric: Name of the mean of the values: ``top1``, ``r@1`` of a retrieval, or ``mse``.
        seeds: S numbers.
        keys: M pairs (split, video).
        labels: M labels as text.
        groups: int64 [M], or ``None``.
        values: float64 [S, M]: 1 for right and 0 for wrong; for regression the squared error.
        ranks: float64 [S, M], as in :attr:`Predictions.ranks`; NaN for regression.
    """

    label: str
    metric: str
    seeds: tuple[int, ...]
    keys: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    groups: Groups | None
    values: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.float64]

    @property
    def is_numbers(self) -> bool:
        """Whether numbers were predicted."""
        return self.metric == "mse"


def read_outcomes(folder: Path) -> Outcomes:
    """Read the predictions of a run.

    Args:
        folder: Folder of the run, or its ``predictions.parquet``.

    Raises:
        ConfigError: There are none, or the file is damaged or was not written by featcache.
    """
    path = folder if folder.suffix == ".parquet" else folder / NAME
    try:
        table = read_table(path)
        about = json.loads(table.schema.metadata[_ABOUT])
        columns = {name: table.column(name) for name in _COLUMNS if name != "scores"}
        seeds = columns["seed"].to_numpy()
        numbers = tuple(dict.fromkeys(seeds.tolist()))
        num_videos = len(seeds) // max(1, len(numbers))
        if not num_videos or not np.array_equal(seeds, np.repeat(numbers, num_videos)):
            raise ValueError("seeds do not hold the same videos")
        splits, videos = (columns[name].to_pylist() for name in ("split", "video"))
        pairs = [(str(split), str(video)) for split, video in zip(splits, videos, strict=True)]
        keys = tuple(pairs[:num_videos])
        if pairs != list(keys) * len(numbers) or len(set(keys)) < len(keys):
            raise ValueError("seeds do not hold the same videos")
        is_numbers = not about["classes"]
        if is_numbers:
            values = np.square(columns["predicted"].to_numpy() - columns["label"].to_numpy())
        else:
            values = np.array(columns["correct"].to_pylist(), dtype=np.bool_).astype(np.float64)
        absent = np.nan if is_numbers else np.inf
        ranks = np.array([absent if rank is None else rank for rank in columns["rank"].to_pylist()], np.float64)
        group = columns["group"].slice(0, num_videos)
        return Outcomes(
            label=str(about["label"]),
            metric="mse" if is_numbers else "r@1" if about.get("ks") else "top1",
            seeds=numbers,
            keys=keys,
            labels=tuple(str(each) for each in columns["label"].slice(0, num_videos).to_pylist()),
            groups=None if group.null_count else group.to_numpy().astype(np.int64),
            values=values.reshape(len(numbers), num_videos),
            ranks=ranks.reshape(len(numbers), num_videos),
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} holds no {NAME}; give the folder of a finished `probe`, `train finetune` or `train tmm`, and "
            "run it again if an earlier featcache wrote it"
        ) from error
    except (UnreadableTableError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a file of predictions, or a damaged one ({error}); delete it and run the probe again"
        ) from error
