"""Format ``hf``: a saved Hugging Face dataset, or Parquet files, read as Arrow tables piece by piece."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from featcache.data.cells import cell_text, label_text
from featcache.data.manifest import label_name
from featcache.data.parquet import UnreadableTableError, opened
from featcache.errors import ExchangeError, unknown_name
from featcache.exchange.columns import ROW_LISTS, ROW_NUMBERS, Column, fixed_shape, to_numpy
from featcache.exchange.optional import optional
from featcache.exchange.sample import Array, Sample
from featcache.exchange.settings import ColumnSettings, ImportSettings

_PIECE_ROWS = 1024
_FACTS = ("fps", "stride_frames", "clip_frames", "offset_frames", "duration_seconds", "status", "reason")


class Pieces(Protocol):
    """A table in pieces that are read one at a time.

    Attributes:
        where: Place of the table, for messages.
        split: Split of all its rows; empty if a column gives it.
        schema: Columns of the table.
        sizes: Number of rows of each piece.
    """

    where: str
    split: str
    schema: pa.Schema
    sizes: list[int]

    def load(self, piece: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one piece."""


class _ParquetPieces:
    def __init__(self, path: Path) -> None:
        self.where, self.split, self._path = str(path), "", path
        try:
            with opened(path) as file:
                self.schema = file.schema_arrow
                self.sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        except UnreadableTableError as problem:
            raise ExchangeError(f"{path} {problem}; restore it") from problem

    def load(self, piece: int, columns: Sequence[str]) -> pa.Table:
        try:
            with opened(self._path) as file:
                table = file.read_row_group(piece, columns=list(columns), use_threads=False)
                table.validate(full=True)
                return table
        except UnreadableTableError as problem:
            raise ExchangeError(f"{self._path}, row group {piece} {problem}; restore the file") from problem


class _SavedPieces:
    def __init__(self, dataset: Any, where: str, split: str) -> None:
        self.where, self.split, self._dataset = where, split, dataset
        self.schema = dataset.features.arrow_schema
        self.sizes = [min(_PIECE_ROWS, len(dataset) - first) for first in range(0, len(dataset), _PIECE_ROWS)]

    def load(self, piece: int, columns: Sequence[str]) -> pa.Table:
        first = piece * _PIECE_ROWS
        try:
            chosen = self._dataset.select_columns(list(columns)).with_format("arrow")
            table: pa.Table = chosen[first : first + self.sizes[piece]]
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            why = " ".join(str(error).split())[:200]
            raise ExchangeError(f"{self.where} is damaged from row {first} on ({why}); save it again") from error
        return table


def read(settings: ImportSettings) -> list[Sample]:
    """Collect the videos of all tables.

    Raises:
        ExchangeError: There is no table, it is damaged, or arrays are not lists of floats.
        UnknownNameError: The tables lack a column.
    """
    columns = settings.columns
    samples: dict[str, _Rows] = {}
    for pieces in _open(Path(settings.source)):
        for name in (columns.id, columns.array):
            if name not in pieces.schema.names:
                raise unknown_name(f"column of {pieces.where}", name, pieces.schema.names, hint="Set it in columns.")
        if twice := sorted({name for name in pieces.schema.names if pieces.schema.names.count(name) > 1}):
            raise ExchangeError(f"{pieces.where} has the column {twice[0]!r} twice; rename one")
        loader = _Loader(pieces, columns.array)
        for piece in range(len(pieces.sizes)):
            _collect(loader, piece, columns, samples)
    if not samples:
        raise ExchangeError(f"{settings.source} holds no row; nothing can be imported")
    maker = _by_video if columns.array_is == "video" else _by_row
    return [maker(video_id, rows, columns.array) for video_id, rows in samples.items()]


def _open(source: Path) -> Iterator[Pieces]:
    if source.is_file():
        yield _ParquetPieces(source)
        return
    if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        datasets = optional("datasets", extra="exchange")
        try:
            loaded = datasets.load_from_disk(str(source))
        except Exception as error:  # datasets trusts its JSON: a number instead of a name is an AttributeError
            why = " ".join(str(error).split())[:200]
            raise ExchangeError(f"{source} cannot be opened as a saved dataset ({why}); save it again") from error
        named = loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]
        for split, dataset in named:
            for file in dataset.cache_files:
                if not Path(file["filename"]).resolve().is_relative_to(source.resolve()):
                    raise ExchangeError(f"{source} takes rows out of {file['filename']!r}, which is not in it")
            yield _SavedPieces(dataset, f"{source}{f', split {split!r}' if split else ''}", split)
        return
    files = sorted(path for path in source.rglob("*.parquet") if path.is_file())
    if not files:
        raise ExchangeError(f"{source} is neither a saved dataset nor a Parquet file, nor a folder of such")
    for path in files:
        if not path.resolve().is_relative_to(source.resolve()):
            raise ExchangeError(f"{path} is a link that leads out of {source}; import its own folder")
        yield _ParquetPieces(path)


@dataclass(slots=True)
class _Rows:
    """The table rows of one video: their places and their other columns."""

    places: list[tuple["_Loader", int, int]] = field(default_factory=list)  # loader, piece, row in the piece
    clips: list[int | None] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, list[Any]] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None


class _Loader:
    """Reads the arrays of a table, and keeps the last pieces."""

    def __init__(self, pieces: Pieces, column: str) -> None:
        self.pieces, self.column = pieces, column
        self.rows = lru_cache(maxsize=2)(self._rows)
        self.table = lru_cache(maxsize=2)(self._table)

    def _table(self, piece: int) -> Column:
        chunked = self.pieces.load(piece, [self.column]).column(self.column)
        return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()

    def _rows(self, piece: int) -> Array:
        return to_numpy(self.table(piece), f"{self.pieces.where}, column {self.column!r}")

    def entry(self, piece: int, row: int) -> Array:
        """One entry that holds all rows of a video."""
        where = f"{self.pieces.where}, column {self.column!r}, row {sum(self.pieces.sizes[:piece]) + row}"
        values: Array = to_numpy(self.table(piece).slice(row, 1), where)[0]
        return values


def _collect(loader: "_Loader", piece: int, columns: ColumnSettings, samples: dict[str, _Rows]) -> None:
    """Assign the rows of one piece to their videos."""
    pieces = loader.pieces
    names = [name for name in pieces.schema.names if name != columns.array and _is_wanted(name, columns)]
    table = pieces.load(piece, names)
    cells = {name: table.column(name).to_pylist() for name in names}
    is_video = columns.array_is == "video"
    for row, raw in enumerate(cells[columns.id]):
        video_id = "" if raw is None else cell_text(raw)
        if not video_id:
            raise ExchangeError(f"{pieces.where}: a row has no {columns.id!r}; every row needs an id")
        one = samples.setdefault(video_id, _Rows())
        if is_video and one.places:
            raise ExchangeError(f"{pieces.where}: id {video_id!r} occurs twice, and each entry holds a whole video")
        one.places.append((loader, piece, row))
        facts = {name: cells[name][row] for name in _FACTS if name in cells}
        facts["split"] = cells[columns.split][row] if columns.split in cells else pieces.split
        labels = {name: cells[column][row] for column in names if (name := label_name(column)) is not None}
        labels |= {"label": cells[columns.label][row]} if columns.label in cells else {}
        facts["labels"] = {name: label_text(value) for name, value in labels.items() if value is not None}
        _agree(one.facts, facts, f"{pieces.where}, id {video_id!r}")
        one.facts = facts
        one.clips.append(cells["clip"][row] if "clip" in cells else None)
        for name in (*ROW_NUMBERS, *ROW_LISTS):
            if name in cells and not is_video:
                one.rows.setdefault(name, []).append(cells[name][row])
            elif name in cells and isinstance(entry := cells[name][row], list):
                one.rows[name] = entry


def _is_wanted(name: str, columns: ColumnSettings) -> bool:
    known = {columns.id, columns.split, columns.label, "clip", *ROW_NUMBERS, *ROW_LISTS, *_FACTS}
    return name in known or label_name(name) is not None


def _agree(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    if old and (name := next((name for name in new if new[name] != old[name]), None)):
        raise ExchangeError(f"{where}: rows of one video have {name} {old[name]!r} and {new[name]!r}; fix the table")


def _facts(video_id: str, rows: _Rows, order: Sequence[int]) -> dict[str, Any]:
    columns = {
        name: [values[index] for index in order]
        for name, values in rows.rows.items()
        if any(v is not None for v in values)
    }
    return {**rows.facts, "id": video_id, **({"rows": columns} if columns else {})}


def _by_row(video_id: str, rows: _Rows, column: str) -> Sample:
    """A video whose rows are table rows, in the order of the column ``clip`` if there is one."""
    where = f"{rows.places[0][0].pieces.where}, id {video_id!r}"
    order = list(range(len(rows.places)))
    if all(clip is not None for clip in rows.clips):
        order.sort(key=lambda index: (rows.clips[index], index))
        if len(set(rows.clips)) != len(rows.clips):
            raise ExchangeError(f"{where}: two rows have the same clip; each needs its own")
    places = [rows.places[index] for index in order]
    shape, dtype = _record_of(places[0])

    def read_rows(first: int, last: int) -> Array:
        values = np.empty((last - first, *shape), dtype)
        for index, (loader, piece, row) in enumerate(places[first:last]):
            found = loader.rows(piece)
            if found.shape[1:] != shape or found.dtype != dtype:
                raise ExchangeError(
                    f"{loader.pieces.where} has rows of {found.dtype}{list(found.shape[1:])}, others not"
                )
            values[index] = found[row]
        return values

    facts = _facts(video_id, rows, order)
    return Sample(id=video_id, where=where, shape=(len(places), *shape), dtype=dtype, read=read_rows, facts=facts)


def _record_of(place: tuple[_Loader, int, int]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    loader, piece, _ = place
    if (fixed := fixed_shape(loader.pieces.schema.field(loader.column).type)) is not None:
        return fixed
    values = loader.rows(piece)
    return values.shape[1:], values.dtype


def _by_video(video_id: str, rows: _Rows, column: str) -> Sample:
    """A video whose rows are the entry of one table row; a null entry stands for a video without an array."""
    loader, piece, row = rows.places[0]
    where = f"{loader.pieces.where}, id {video_id!r}"
    facts = _facts(video_id, rows, range(len(next(iter(rows.rows.values()), []))))
    if not loader.table(piece)[row].is_valid:
        return Sample(id=video_id, where=where, facts=facts)
    values = loader.entry(piece, row)
    values = values[None] if values.ndim == 1 else values

    def read_rows(first: int, last: int) -> Array:
        found = loader.entry(piece, row)
        return (found[None] if found.ndim == 1 else found)[first:last]

    return Sample(id=video_id, where=where, shape=values.shape, dtype=values.dtype, read=read_rows, facts=facts)
