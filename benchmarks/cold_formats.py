"""The formats of other libraries for `cold_read.py`: rows of a store written again, and read in shuffled batches."""

import importlib.util
import random
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from featcache.store.reader import open_store

Step = Callable[[], int]
"""Reads the next batch, and returns its number of rows; 0 at the end."""
PARTS = 512
FORMATS: dict[str, Callable[[], bool]] = {
    "litdata": lambda: importlib.util.find_spec("litdata") is not None,
    "webdataset": lambda: importlib.util.find_spec("webdataset") is not None,
    "tensorstore": lambda: importlib.util.find_spec("tensorstore") is not None,
    "lance": lambda: importlib.util.find_spec("lance") is not None,
}
"""Whether a library is installed, by name."""


def write_format(name: str, folder: Path, *, num_bytes: int) -> None:
    """Write at most so many bytes of the rows of `folder`/zarr in a format; tensorstore reads the store itself."""
    if name == "tensorstore":
        return
    with open_store(folder / "zarr").feature(device="disk") as features:
        num_rows = min(features.num_rows, num_bytes // features.record.num_bytes)
        parts = (features.gather(np.arange(first, min(first + PARTS, num_rows))) for first in range(0, num_rows, PARTS))
        {"litdata": write_litdata, "webdataset": write_webdataset, "lance": write_lance}[name](folder / name, parts)


def make_reader(name: str, folder: Path, shape: tuple[int, ...], batch: int) -> Step:
    """A function that reads shuffled batches."""
    if name == "tensorstore":
        return read_tensorstore(folder / "zarr", batch)
    if name == "lance":
        return read_lance(folder / name, shape, batch)
    items = read_litdata(folder / name) if name == "litdata" else read_webdataset(folder / name, shape)
    return collected(items, batch)


def collected(items: Iterator[np.ndarray], batch: int) -> Step:
    """Batches of single rows."""

    def step() -> int:
        rows = [row for _, row in zip(range(batch), items, strict=False)]
        return len(np.stack(rows)) if rows else 0

    return step


def write_litdata(path: Path, parts: Iterator[np.ndarray]) -> None:
    """Chunks of 64 MB."""
    import litdata

    path.mkdir()
    writer = litdata.streaming.writer.BinaryWriter(str(path), chunk_bytes=64 << 20)
    number = 0
    for rows in parts:
        for row in rows:
            writer[number] = row
            number += 1
    writer.done()
    writer.merge()


def read_litdata(path: Path) -> Iterator[np.ndarray]:
    """Its own shuffle, over chunks and within them, without worker processes."""
    import litdata

    yield from litdata.StreamingDataset(str(path), shuffle=True)


def write_webdataset(path: Path, parts: Iterator[np.ndarray]) -> None:
    """One archive per 512 rows."""
    path.mkdir()
    for number, rows in enumerate(parts):
        with tarfile.open(path / f"{number:05d}.tar", "w") as archive:
            for place, row in enumerate(rows):
                data = row.tobytes()
                entry = tarfile.TarInfo(f"{number:05d}{place:04d}.bin")
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))


def read_webdataset(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Archives in random order, and a shuffle buffer of 256 MB."""
    import webdataset

    files = sorted(map(str, path.glob("*.tar")))
    rows = (256 << 20) // (2 * int(np.prod(shape)))
    dataset = webdataset.WebDataset(files, shardshuffle=len(files), empty_check=False).shuffle(rows)
    for sample in dataset:
        yield np.frombuffer(sample["bin"], np.float16).reshape(shape)


def read_tensorstore(path: Path, batch: int) -> Step:
    """The store's own Zarr array, whose rows it reads concurrently."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "g000" / "features")}}
    context = {"cache_pool": {"total_bytes_limit": 256 << 20}}
    array: Any = tensorstore.open({**spec, "context": context}, open=True).result()
    order = np.random.default_rng(random.getrandbits(32)).permutation(array.shape[0])
    places = iter(range(0, len(order), batch))

    def step() -> int:
        first = next(places, None)
        return 0 if first is None else len(array.oindex[order[first : first + batch]].read().result())

    return step


def write_lance(path: Path, parts: Iterator[np.ndarray]) -> None:
    """One column of bytes of fixed length."""
    import lance
    import pyarrow as pa

    def table(rows: np.ndarray) -> pa.RecordBatch:
        width = rows[0].nbytes
        buffers = [None, pa.py_buffer(np.ascontiguousarray(rows).view(np.uint8).reshape(-1))]
        column = pa.Array.from_buffers(pa.binary(width), len(rows), buffers)
        return pa.RecordBatch.from_arrays([column], ["row"])

    first = table(next(parts))
    batches = (each for group in ([first], map(table, parts)) for each in group)
    lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, batches), str(path))


def read_lance(path: Path, shape: tuple[int, ...], batch: int) -> Step:
    """Rows by number."""
    import lance

    dataset = lance.dataset(str(path))
    order = np.random.default_rng(random.getrandbits(32)).permutation(dataset.count_rows())
    places = iter(range(0, len(order), batch))

    def step() -> int:
        first = next(places, None)
        if first is None:
            return 0
        (chunk,) = dataset.take(order[first : first + batch].tolist()).combine_chunks().column("row").chunks
        return len(np.frombuffer(chunk.buffers()[1], np.float16).reshape(-1, *shape)[: len(chunk)].copy())

    return step
