"""Shard files: byte for byte what zarr writes, and what h5py reads."""

import io as stdio
import warnings

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from featcache.recipes import RecordSpec
from featcache.store import hdf5_format, zarr_format
from featcache.store.blocks import fill_value
from featcache.store.precision import stored_dtype


def record_of(shape, dtype):
    return RecordSpec(shape=shape, axes=tuple("thwc"[-len(shape) :]), dtype=dtype)


def values(record, num_rows, *, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((num_rows, *record.shape)) * 20
    return (np.clip(np.rint(array), -127, 127) if record.dtype == "int8" else array).astype(stored_dtype(record.dtype))


def zarr_array(path, record, *, num_shards, shard_rows, block_rows):
    """The array as zarr-python itself creates it."""
    checksummed = [BytesCodec(), Crc32cCodec()]
    return zarr.create_array(
        str(path),
        shape=(num_shards * shard_rows, *record.shape),
        chunks=(shard_rows, *record.shape),
        dtype=record.dtype,
        fill_value=fill_value(record),
        serializer=ShardingCodec(chunk_shape=(block_rows, *record.shape), codecs=checksummed, index_codecs=checksummed),
        compressors=None,
        filters=None,
        dimension_names=["row", *record.axes],
    )


@st.composite
def shards(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    record = record_of(shape, draw(st.sampled_from(["float16", "float32", "int8"])))
    block_rows = draw(st.integers(1, 5))
    shard_rows = block_rows * draw(st.integers(1, 9))
    num_rows = draw(st.integers(1, shard_rows))
    absent = draw(st.sets(st.integers(0, shard_rows - 1)))
    present = np.zeros(shard_rows, bool)
    present[:num_rows] = True
    present[list(absent)] = False
    if not present.any():
        present[0] = True
    return record, block_rows, num_rows, present


@settings(max_examples=60)
@given(shard=shards(), seed=st.integers(0, 5))
def test_zarr_shards_are_what_zarr_writes(tmp_path_factory, shard, seed):
    record, block_rows, num_rows, present = shard
    array = values(record, len(present), seed=seed)
    if record.dtype == "int8":
        array[array == 0] = 1  # zarr takes a block of zeros for a missing one; presence is ours to know
    encoded = zarr_format.encode(array, present, block_rows=block_rows, num_rows=num_rows, record=record, scale=None)
    path = tmp_path_factory.mktemp("zarr") / "array"
    theirs = zarr_array(path, record, num_shards=1, shard_rows=len(present), block_rows=block_rows)
    filled = array.copy()
    filled[~present] = fill_value(record)
    theirs[:] = filled
    mine = b"".join(bytes(chunk) for chunk in encoded.chunks)
    assert mine == (path / "c" / "/".join("0" * (1 + len(record.shape)))).read_bytes()
    assert encoded.num_bytes == len(mine)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_our_metadata_means_what_zarr_s_does(tmp_path, dtype):
    record = record_of((2, 3), dtype)
    zarr_array(tmp_path / "theirs", record, num_shards=3, shard_rows=8, block_rows=2)
    (tmp_path / "ours").mkdir()
    mine = zarr_format.array_metadata(record, num_shards=3, shard_rows=8, block_rows=2, name="ours")
    (tmp_path / "ours" / "zarr.json").write_bytes(mine)
    ours, theirs = (zarr.open_array(str(tmp_path / name), mode="r").metadata for name in ("ours", "theirs"))
    # zarr.open_array fills in what a document leaves out, so equal metadata is equal meaning
    for document in (ours, theirs):
        document.attributes.clear()
    assert ours == theirs or ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("with_scale", [False, True])
@pytest.mark.parametrize("shape", [(1,), (7,), (768,), (2, 3, 5)])
@pytest.mark.parametrize(("num_rows", "shard_rows", "block_rows"), [(1, 8, 2), (7, 8, 4), (8, 8, 8), (5, 6, 1)])
def test_h5py_reads_our_files(dtype, with_scale, shape, num_rows, shard_rows, block_rows):
    record = record_of(shape, dtype)
    array = values(record, shard_rows)
    present = np.zeros(shard_rows, bool)
    present[:num_rows:2] = True
    scale = np.arange(shape[-1], dtype=np.float32) if with_scale else None
    encode = {"block_rows": block_rows, "num_rows": num_rows, "record": record, "scale": scale}
    encoded = hdf5_format.encode(array, present, **encode)
    data = b"".join(bytes(chunk) for chunk in encoded.chunks)
    assert data == b"".join(bytes(chunk) for chunk in hdf5_format.encode(array, present, **encode).chunks)
    assert len(data) == encoded.num_bytes
    with h5py.File(stdio.BytesIO(data), "r") as file:
        assert file["features"].shape == (num_rows, *shape)
        assert file["features"].id.get_offset() == encoded.data_offset
        filled = np.where(present.reshape(-1, *[1] * len(shape)), array, stored_dtype(dtype).type(fill_value(record)))
        assert file["features"][:].tobytes() == filled[:num_rows].astype(stored_dtype(dtype)).tobytes()
        assert (b"scale" in [name.encode() for name in file]) == with_scale
        if with_scale:
            np.testing.assert_array_equal(file["scale"][:], scale)


def test_absent_rows_are_not_written_into_the_callers_array():
    record = record_of((3,), "float16")
    array = values(record, 4)
    before = array.copy()
    present = np.array([True, False, True, True])
    zarr_format.encode(array, present, block_rows=2, num_rows=4, record=record, scale=None)
    assert array.tobytes() == before.tobytes()
    assert array.flags.writeable


def test_the_scale_chunk_is_what_zarr_writes(tmp_path):
    scale = np.linspace(0.1, 2, 5, dtype=np.float32)
    folder = tmp_path / "scale"
    folder.mkdir()
    (folder / "zarr.json").write_bytes(zarr_format.scale_metadata(num_shards=2, num_channels=5))
    with warnings.catch_warnings():
        theirs = zarr.open_array(str(folder), mode="r+")
    theirs[1] = scale
    assert (folder / "c" / "1" / "0").read_bytes() == zarr_format.scale_chunk(scale)
