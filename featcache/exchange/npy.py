"""Format ``npy``: a folder with one ``.npy`` file per video, [N, …], and optionally a ``.json`` of facts beside it.

The id is the path below the folder without ``.npy``; the label, if no listing gives one, is the folder of the file. A
pattern or a known layout overrides both: :mod:`featcache.exchange.layouts`.
"""

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from featcache.data.manifest import default_id
from featcache.errors import ExchangeError
from featcache.exchange.layouts import Placed, place
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.sample import Array, Sample, facts_of, id_of
from featcache.exchange.settings import ExportSettings, ImportSettings
from featcache.files.places import safe_join

_MAX_JSON_BYTES = 256 << 20


class UnreadableError(Exception):
    """Bytes that are not an array; the message is the end of a sentence."""


def read(settings: ImportSettings) -> list[Sample]:
    """List the arrays of a folder by their headers.

    Raises:
        ExchangeError: There is no folder, no array in it, none that fits the pattern, or a link that leads out of it.
    """
    root = Path(settings.source)
    if not root.is_dir():
        raise ExchangeError(f"{root} is not a folder; format npy takes a folder of .npy files")
    found = [path.relative_to(root).as_posix() for path in _walk(root)]
    alone = [Placed(path=path) for path in found if path.endswith(".json")]
    arrays = [path for path in found if path.endswith(".npy")]
    if settings.pattern is None:  # an array with facts of its own needs no layout, and does not belong to another array
        described = {path for path in arrays if (root / path).with_suffix(".json").is_file()}
        alone += [Placed(path=path) for path in described]
        arrays = [path for path in arrays if path not in described]
    placed = sorted([*alone, *place(arrays, pattern=settings.pattern)], key=lambda one: one.path)
    samples = [_sample(root, one) for one in placed]
    if not any(sample.shape for sample in samples):
        raise ExchangeError(f"{root} holds no .npy file that can be read; check the folder and --format")
    return samples


def write(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write one ``<id>.npy`` and ``<id>.json`` per video; a failed video has only the ``.json``."""
    for number, video in enumerate(out.videos):
        target = safe_join(folder, f"{video.id}.npy")
        target.parent.mkdir(parents=True, exist_ok=True)
        facts = facts_of(video, out.rows_of(video.id))
        with target.with_suffix(".json").open("x", encoding="ascii") as sidecar:
            json.dump(facts, sidecar, allow_nan=False)
        if out.num_rows(video.id):
            with target.open("xb") as file:
                np.lib.format.write_array(file, out.values(video.id), allow_pickle=False)
        step(number + 1, len(out.videos))
    return {}


def array_at(path: Path, *, offset: int, num_bytes: int) -> tuple[tuple[int, ...], np.dtype[Any], "Reader"]:
    """Shape, dtype and reader of an array in a file; only its header is read.

    Args:
        path: The file.
        offset: Offset of the ``.npy`` bytes.
        num_bytes: Number of these bytes.

    Raises:
        UnreadableError: The bytes are not an array, or fewer than its header says.
        ExchangeError: The array does not hold numbers.
    """
    with path.open("rb") as file:
        file.seek(offset)
        shape, is_fortran, dtype, length = _header(file, limit=num_bytes)
    if not shape:
        raise UnreadableError("holds a single number, not rows")
    if dtype.hasobject:
        raise ExchangeError(f"{path} holds Python objects, which are never loaded; save plain arrays of floats")
    expected = length + dtype.itemsize * int(np.prod(shape, dtype=object))
    if expected > num_bytes:
        raise UnreadableError(f"has {num_bytes} bytes, its header says {expected}")
    is_columns = is_fortran and len(shape) > 1
    reader = Reader(path=path, offset=offset + length, shape=shape, dtype=dtype, is_fortran=is_columns)
    return (shape if len(shape) != 1 else (1, *shape)), dtype.newbyteorder("="), reader


class Reader:
    """Rows of an array in a file, read on demand."""

    def __init__(
        self, *, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], is_fortran: bool
    ) -> None:
        self._path, self._offset, self._dtype, self._is_fortran = path, offset, dtype, is_fortran
        self._shape = shape if len(shape) != 1 else (1, *shape)

    def __call__(self, first: int, last: int) -> Array:
        """Rows ``first`` to ``last``, in native byte order."""
        num, record = self._shape[0], self._shape[1:]
        first, last, start, stop = (0, num, first, last) if self._is_fortran else (first, last, 0, last - first)
        size = int(np.prod(record, dtype=np.int64))
        values = np.fromfile(
            self._path,
            self._dtype,
            count=(last - first) * size,
            offset=self._offset + first * size * self._dtype.itemsize,
        )
        if len(values) != (last - first) * size:
            raise ExchangeError(f"{self._path} was cut short while it was imported; restore it, then run again")
        if self._is_fortran:
            values = np.ascontiguousarray(values.reshape(self._shape, order="F")[start:stop])
        return values.reshape(-1, *record).astype(self._dtype.newbyteorder("="), copy=False)


def _header(file: BinaryIO, *, limit: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, dtype and length of a ``.npy`` header."""
    head = io.BytesIO(file.read(min(limit, 1 << 16)))
    try:
        version = np.lib.format.read_magic(head)
        reader = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, is_fortran, dtype = reader(head)
    except KeyError as error:
        raise UnreadableError(f"is .npy of version {version[0]}, and 1 and 2 can be read") from error
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError) as error:
        raise UnreadableError(f"is no .npy file ({' '.join(str(error).split())[:200]})") from error
    if any(size < 0 for size in shape):
        raise UnreadableError(f"says it has shape {shape}")
    return shape, is_fortran, dtype, head.tell()


def read_json(data: bytes, where: str) -> Mapping[str, Any]:
    """The object in a JSON file beside an array.

    Raises:
        ExchangeError: The file is not JSON, or holds something else than an object.
    """
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        why = str(error).partition(";")[0]
        raise ExchangeError(f"{where} is not JSON ({why}); fix it or remove it") from error
    if not isinstance(facts, dict):
        raise ExchangeError(f"{where} holds {type(facts).__name__}; expected an object of facts about its video")
    return facts


def _sample(root: Path, placed: Placed) -> Sample:
    path, relative = root / placed.path, PurePosixPath(placed.path)
    sidecar = path.with_suffix(".json")
    facts: dict[str, Any] = {}
    if sidecar.is_file():
        _check_inside(root, sidecar)
        if sidecar.stat().st_size > _MAX_JSON_BYTES:
            raise ExchangeError(f"{sidecar} has {sidecar.stat().st_size} bytes; facts about one video are smaller")
        facts = dict(read_json(sidecar.read_bytes(), str(sidecar)))
    if placed.video is None and relative.parent.name:
        facts["folder"] = default_id(relative.parent.name)
    facts |= {name: value for name, value in (("label", placed.label), ("split", placed.split)) if value is not None}
    video_id = id_of(facts, default_id(placed.video or relative.with_suffix("").as_posix()), str(path))
    if path.suffix == ".json":
        return Sample(id=video_id, where=str(path), facts=facts)
    facts.setdefault("path", placed.path)
    if placed.rate is not None and (rate := _numbers(root / placed.rate, ndim=0)[0]) > 0:
        facts.setdefault("fps", rate)
    if placed.times is not None:
        facts.setdefault("timestamps_ms", _numbers(root / placed.times, ndim=1))
    try:
        shape, dtype, reader = array_at(path, offset=0, num_bytes=path.stat().st_size)
    except UnreadableError as problem:
        return Sample(id=video_id, where=str(path), facts=facts, problem=f"{placed.path} {problem}")
    return Sample(id=video_id, where=str(path), shape=shape, dtype=dtype, read=reader, facts=facts)


def _numbers(path: Path, *, ndim: int) -> list[float]:
    """The numbers of a file that describes the rows of another.

    Raises:
        ExchangeError: It is not an array with the expected number of axes.
    """
    try:
        with path.open("rb") as file:
            shape, _, dtype, length = _header(file, limit=path.stat().st_size)
            size = int(np.prod(shape, dtype=object))
            if len(shape) != ndim or dtype.kind not in "fiu":
                raise UnreadableError(f"holds {dtype}{list(shape)}")
            if length + size * dtype.itemsize > path.stat().st_size:
                raise UnreadableError("is cut short")
            file.seek(length)
            values: list[float] = np.frombuffer(file.read(size * dtype.itemsize), dtype).astype(np.float64).tolist()
    except UnreadableError as problem:
        kind = "the times of the rows" if ndim else "the frame rate"
        raise ExchangeError(
            f"{path} {problem}, and stands where {kind} of the array beside it belongs; fix it, or say with --pattern "
            "which files are arrays"
        ) from problem
    return values


def _walk(root: Path) -> Iterator[Path]:
    """All arrays, and the JSON files of failed videos, sorted."""
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *files):
            if (Path(folder) / name).is_symlink():
                _check_inside(root, Path(folder) / name)
        arrays = {name for name in files if name.endswith(".npy") and not name.startswith(".")}
        alone = {name for name in files if name.endswith(".json") and name[: -len(".json")] + ".npy" not in arrays}
        found += [Path(folder) / name for name in arrays]
        found += [Path(folder) / name for name in alone if _is_failure(Path(folder) / name)]
    return iter(sorted(found))


def _is_failure(sidecar: Path) -> bool:
    """Whether a JSON file without an array is the ledger entry of a failed video."""
    data = sidecar.read_bytes() if sidecar.is_file() and sidecar.stat().st_size < 1 << 20 else b""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and "id" in facts and "status" in facts


def _check_inside(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise ExchangeError(f"{path} is a link that leads out of {root}; copy the file in, or import its own folder")
