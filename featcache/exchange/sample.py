"""One video between a store and another format: its array, and the facts beside it as JSON.

An unknown fact is null or absent. In a store's row table that is NaN for times, and -1 for frames and boxes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.cells import cell_text, label_text
from featcache.data.manifest import RARE_FIELDS
from featcache.data.types import STATUSES, VideoRecord
from featcache.errors import ExchangeError
from featcache.exchange.settings import TimingSettings
from featcache.store.rows import RowTable

Array = npt.NDArray[Any]

_BOX = ("y0", "x0", "y1", "x1")
_TEXTS = ("path", "content_hash", "codec", "transfer", "split", "reason")
_INTS = ("num_bytes", "num_frames", "height", "width")
_FLOATS = ("fps", "duration_seconds", "start_seconds")
_MAX_COUNT = 1 << 62
_TIMING = ("fps", "stride_frames", "clip_frames", "offset_frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One video of a source to import.

    Attributes:
        id: Id of the video.
        where: The file, or the place in it, for messages.
        shape: ``(N, *record)``; ``None`` if there is no readable array.
        dtype: Dtype of the array.
        read: Function that reads rows ``first`` to ``last``, [last - first, *record].
        facts: Facts from the source, see :func:`video_record` and :func:`row_columns`.
        problem: Why there is no readable array.
    """

    id: str
    where: str
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    read: Callable[[int, int], Array] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def num_rows(self) -> int:
        """Number of rows of the array; 0 without an array."""
        return 0 if self.shape is None else self.shape[0]


def id_of(facts: Mapping[str, Any], default: str, where: str) -> str:
    """The id from the facts, otherwise ``default``.

    Raises:
        ExchangeError: The id is neither text nor a number.
    """
    return _text(facts, "id", where) or default


def video_record(sample: Sample) -> VideoRecord:
    """The record of a sample; a sample without rows is a failure with its reason.

    Raises:
        ExchangeError: A fact has the wrong type; names the place.
    """
    facts, where = sample.facts, sample.where
    labels = facts.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise ExchangeError(f"{where}: 'labels' is {labels!r}; expected an object of label names and texts")
    named = {"label": facts["label"]} if facts.get("label") not in (None, "") else {}
    values: dict[str, Any] = {name: _text(facts, name, where) for name in _TEXTS}
    values |= {name: _count(facts, name, where) for name in _INTS}
    values |= {name: _number(facts, name, where) or 0.0 for name in _FLOATS}
    values["pixel_aspect"] = _number(facts, "pixel_aspect", where) or 1.0
    status, reason = _text(facts, "status", where) or "ok", values["reason"]
    if status not in STATUSES:
        raise ExchangeError(f"{where}: status is {status!r}; expected one of {', '.join(STATUSES)}")
    if status == "ok" and sample.shape is None:
        status, reason = ("undecodable", sample.problem) if sample.problem else ("missing", "there is no array for it")
    elif status == "ok" and sample.num_rows == 0:
        status, reason = "too_short", "its array has no rows"
    texts = {str(name): label_text(value) for name, value in {**labels, **named}.items() if value is not None}
    labels = {_stored(name, "labels", where): _stored(text, name, where) for name, text in texts.items() if text}
    values["split"] = label_text(values["split"])
    path = values["path"] or sample.id
    return VideoRecord(**{**values, "path": path, "reason": reason}, id=sample.id, labels=labels, status=status)  # type: ignore[arg-type]


def row_columns(sample: Sample, timing: TimingSettings, *, num_frames: int) -> dict[str, Array]:
    """The columns of the row table that follow from a sample's facts; unknown values are NaN or -1.

    ``facts["rows"]`` may hold lists with one entry per row: ``t0``, ``t1``, ``frames``, ``pts_seconds``, ``y0``,
    ``x0``, ``y1``, ``x1``, ``flip``. Without ``t0``, times come from ``timestamps_ms`` in the facts, or from ``fps``,
    ``stride_frames``, ``clip_frames`` and ``offset_frames`` of the facts or of ``timing``.

    Args:
        sample: The video.
        timing: Timing for facts that the sample lacks.
        num_frames: Number of frames per row in the store's row table.

    Returns:
        Columns of ``sample.num_rows`` rows: all of :class:`RowTable` except ``video``, ``row`` and ``clip``.

    Raises:
        ExchangeError: A list has another length or the wrong type; names the place.
    """
    n, where = sample.num_rows, sample.where
    rows = sample.facts.get("rows") or {}
    if not isinstance(rows, Mapping):
        raise ExchangeError(f"{where}: 'rows' is {type(rows).__name__}; expected an object of lists, one entry per row")
    columns = {
        "frames": _column(rows, "frames", (n, num_frames), np.dtype(np.int32), -1, where),
        "pts_seconds": _column(rows, "pts_seconds", (n, num_frames), np.dtype(np.float64), math.nan, where),
        "flip": _column(rows, "flip", (n,), np.dtype(np.bool_), False, where),
        **{name: _column(rows, name, (n,), np.dtype(np.int32), -1, where) for name in _BOX},
        **{name: _column(rows, name, (n,), np.dtype(np.float64), math.nan, where) for name in ("t0", "t1")},
    }
    if rows.get("t0") is None:
        columns["t0"], columns["t1"] = _timed(sample, timing)
    return columns


def _timed(sample: Sample, timing: TimingSettings) -> tuple[Array, Array]:
    given = {name: _number(sample.facts, name, sample.where) for name in _TIMING}
    fps = given["fps"] or timing.fps
    stride = given["stride_frames"] or timing.stride_frames
    clip = given["clip_frames"] or timing.clip_frames
    offset = timing.offset_frames if given["offset_frames"] is None else given["offset_frames"]
    unknown = np.full(sample.num_rows, math.nan)
    start = _number(sample.facts, "start_seconds", sample.where) or 0.0  # times are on the container's clock
    if sample.facts.get("timestamps_ms") is not None and sample.num_rows:
        shape, kind = (sample.num_rows,), np.dtype(np.float64)
        begins = start + _column(sample.facts, "timestamps_ms", shape, kind, math.nan, sample.where) / 1000
        return begins, begins + clip / fps if clip and fps else unknown
    if not fps or not (stride or (clip and sample.num_rows == 1)):  # a frame rate alone does not give the times of rows
        return unknown, unknown.copy()
    first = offset + np.arange(sample.num_rows) * (stride or 0.0)
    return start + first / fps, start + (first + clip) / fps if clip else unknown


def facts_of(video: VideoRecord, rows: RowTable) -> dict[str, Any]:
    """The facts of a stored video, JSON-ready; :func:`video_record` and :func:`row_columns` give back equal ones."""
    facts: dict[str, Any] = {"id": video.id, "status": video.status, "labels": dict(video.labels)}
    facts |= {name: getattr(video, name) for name in (*_TEXTS, *_INTS, *_FLOATS) if getattr(video, name)}
    if video.pixel_aspect != RARE_FIELDS["pixel_aspect"]:
        facts["pixel_aspect"] = video.pixel_aspect
    if len(rows):
        facts["rows"] = {
            name: _list(getattr(rows, name)) for name in ("t0", "t1", *_BOX, "flip", "frames", "pts_seconds")
        }
    return facts


def unknown_mask(column: Array) -> npt.NDArray[np.bool_]:
    """Rows of a row table's column that are unknown, bool [N]."""
    if column.dtype == np.bool_:
        return np.zeros(len(column), bool)
    unknown: Array = np.asarray(np.isnan(column) if column.dtype.kind == "f" else column == -1)
    every: npt.NDArray[np.bool_] = np.logical_and.reduce(unknown.reshape(len(unknown), -1), axis=1)
    return every


def _list(column: Array) -> list[Any] | None:
    unknown = unknown_mask(column)
    if unknown.all():
        return None
    return [None if absent else value for value, absent in zip(column.tolist(), unknown.tolist(), strict=True)]


def _column(
    rows: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: np.dtype[Any], unknown: Any, where: str
) -> Array:
    values = rows.get(name)
    if values is None:
        return np.full(shape, unknown, dtype)
    if not isinstance(values, list) or len(values) != shape[0]:
        found = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise ExchangeError(f"{where}: 'rows.{name}' has {found}; expected a list of {shape[0]}, one per row")
    blank = [unknown] * shape[1] if len(shape) > 1 else unknown
    try:
        column = np.array([blank if value is None else value for value in values])
        column = column.reshape(shape) if not shape[0] else column
        if column.shape != shape:
            raise ValueError(f"shape {column.shape}, expected {shape}")
        if column.dtype.kind not in {"b": "b", "i": "biu", "f": "iuf"}[dtype.kind]:
            raise ValueError(f"{column.dtype} where {dtype} belongs")
        cast = column.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ExchangeError(f"{where}: 'rows.{name}' cannot be read ({error}); fix it or leave it out") from error
    if dtype.kind == "i" and not np.array_equal(cast, column):
        raise ExchangeError(f"{where}: 'rows.{name}' has numbers beyond 32 bits; fix it or leave it out")
    return cast


def _text(facts: Mapping[str, Any], name: str, where: str) -> str:
    value = facts.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ExchangeError(f"{where}: {name!r} is {type(value).__name__}; expected text")
    return _stored(cell_text(value), name, where)


def _number(facts: Mapping[str, Any], name: str, where: str) -> float | None:
    value = facts.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ExchangeError(f"{where}: {name!r} is {value!r:.100}; expected a number") from error
    if not math.isfinite(number):
        raise ExchangeError(f"{where}: {name!r} is {value!r:.100}; expected a finite number")
    return number


def _count(facts: Mapping[str, Any], name: str, where: str) -> int:
    number = int(_number(facts, name, where) or 0)
    if not 0 <= number < _MAX_COUNT:
        raise ExchangeError(f"{where}: {name!r} is {facts[name]!r:.100}; expected a count")
    return number


def _stored(text: str, name: str, where: str) -> str:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ExchangeError(f"{where}: {name!r} has half a surrogate pair in it, which is not text; fix it") from error
    return text
