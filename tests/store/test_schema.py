"""The documents on disk, word for word: a change here is a change of the format."""

from dataclasses import replace

import numpy as np
import pytest

from featcache.data.types import VideoOutcome
from featcache.errors import ConfigError, CorruptStoreError, StoreError
from featcache.files.sealed import seal
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe
from featcache.store import paths, zarr_format
from featcache.store.schema import CommitDoc, DataRef, FeatureDoc, PlanDoc, RootDoc, TableRef

HASH = "0" * 63 + "f"
RECORD = RecordSpec(shape=(2, 3), axes=("n", "c"), dtype="float16")
COMMIT = CommitDoc(
    feature="a",
    recipe_hash="r",
    plan_hash="p",
    generation=0,
    shard=3,
    rows=TableRef(sha256=HASH, num_bytes=7),
    data=DataRef(
        num_bytes=99, frame_crc32c=5, data_offset=0, block_rows=4, block_crc32c=np.array([1, 2**32 - 1], "u4")
    ),
    int8_scale=None,
    num_ok=2,
    failed=(VideoOutcome(id="v", status="timeout", reason="slow", first_row=8, num_rows=2),),
    provenance={"device": "cpu"},
)
PLAN = PlanDoc(
    generation=1,
    sampling_hash="s",
    shard_rows=8,
    num_shards=2,
    num_videos=3,
    encode_batch=4,
    threads=1,
    block_bytes=65536,
    videos=TableRef(sha256=HASH, num_bytes=7),
    segments=TableRef(sha256=HASH, num_bytes=8),
)


def test_golden_commit_record():
    assert seal(COMMIT.to_json()) == (
        b'{"checksum":"ac633c664cb0961471658389377c64174e0b41ef7d5ab46db160e42ecac1590a","data":{"block_crc32c":"AQAAAP////8="'
        b',"block_rows":4,"data_offset":0,"frame_crc32c":5,"num_bytes":99},"failed":[{"first_row":8,"id":"v","num_rows":2,'
        b'"reason":"slow","status":"timeout"}],"feature":"a","format":"featcache","generation":0,"int8_scale":null,'
        b'"kind":"commit","num_ok":2,"plan_hash":"p","provenance":{"device":"cpu"},"recipe_hash":"r","rows":{"num_bytes":7,'
        b'"sha256":"000000000000000000000000000000000000000000000000000000000000000f"},"shard":3,"version":1}\n'
    )


def test_golden_plan():
    assert seal(PLAN.to_json()).decode() == (
        '{"block_bytes":65536,"checksum":"4f3f3b9d5ff76076dea3fbdf16032b39930bce3f962016d52d31648203af2970",'
        '"encode_batch":4,"format":"featcache","generation":1,"kind":"plan",'
        f'"num_shards":2,"num_videos":3,"sampling_hash":"s","segments":{{"num_bytes":8,"sha256":"{HASH}"}},'
        f'"shard_rows":8,"threads":1,"version":3,"videos":{{"num_bytes":7,"sha256":"{HASH}"}}}}\n'
    )


@pytest.mark.parametrize("version", [1, 2])
def test_plans_of_earlier_versions_have_blocks_of_their_size(version):
    document = {name: value for name, value in PLAN.to_json().items() if name != "block_bytes"} | {"version": version}
    read = PlanDoc.from_json(document, generation=1, sampling_hash="s", where="here")
    assert read == replace(PLAN, block_bytes=524_288)
    with pytest.raises(CorruptStoreError, match="no usable member 'block_bytes'"):
        PlanDoc.from_json({**document, "version": 3}, generation=1, sampling_hash="s", where="here")


def test_golden_shard():
    """Four rows of [2, 3], the second absent, the last block missing."""
    array = np.arange(36, dtype="<f2").reshape(6, 2, 3)
    present = np.array([True, False, True, True, False, False])
    encoded = zarr_format.encode(array, present, block_rows=2, num_rows=6, record=RECORD, scale=None)
    assert b"".join(bytes(chunk) for chunk in encoded.chunks).hex() == (
        "0000003c0040004200440045007e007e007e007e007e007e64c46e6b004a804a004b804b004c404c804cc04c004d404d"
        "804dc04dc92fc78e00000000000000001c000000000000001c000000000000001c00000000000000ffffffffffffffff"
        "ffffffffffffffff4d8ac682"
    )


def identity(**changes):
    return {"feature": "a", "recipe_hash": "r", "plan_hash": "p", "generation": 0, "shard": 3, **changes}


def test_documents_round_trip():
    read = CommitDoc.from_json(COMMIT.to_json(), identity=identity(), where="here")
    assert read.to_json() == COMMIT.to_json()
    read = PlanDoc.from_json(PLAN.to_json(), generation=1, sampling_hash="s", where="here")
    assert read == PLAN
    root = RootDoc(sampling=SamplingRecipe(num_clips=7), file_format="hdf5")
    assert RootDoc.from_json(root.to_json(), where="here") == root
    recipe = FeatureRecipe(backbone="b", weights_hash="w", layer="l")
    feature = FeatureDoc(name="a", recipe=recipe, record=RECORD)
    assert FeatureDoc.from_json(feature.to_json(), name="a", where="here") == feature


@pytest.mark.parametrize(
    ("member", "value"), [("feature", "b"), ("recipe_hash", "x"), ("plan_hash", "x"), ("generation", 1), ("shard", 4)]
)
def test_a_record_of_another_place_is_refused_by_member(member, value):
    with pytest.raises(CorruptStoreError, match=f"has {member} .* where {value!r} belongs"):
        CommitDoc.from_json(COMMIT.to_json(), identity=identity(**{member: value}), where="here")


def test_a_plan_of_another_store_is_refused():
    for generation, sampling_hash in [(0, "s"), (1, "x")]:
        with pytest.raises(CorruptStoreError, match="another generation or store"):
            PlanDoc.from_json(PLAN.to_json(), generation=generation, sampling_hash=sampling_hash, where="here")


def test_versions_are_named():
    document = RootDoc(sampling=SamplingRecipe(), file_format="zarr").to_json()
    with pytest.raises(StoreError, match="here has version 4, this build reads <= 3; upgrade featcache"):
        RootDoc.from_json({**document, "version": 4}, where="here")
    with pytest.raises(StoreError, match="it is not a featcache store"):
        RootDoc.from_json({**document, "format": "other"}, where="here")
    with pytest.raises(StoreError, match="this build reads zarr and hdf5"):
        RootDoc.from_json({**document, "file_format": "lance"}, where="here")
    with pytest.raises(ConfigError, match="has no field 'new'"):
        RootDoc.from_json({**document, "sampling": {**document["sampling"], "new": 1}}, where="here")


def test_paths_are_derived():
    assert paths.data("zarr", 0, "a", 12, record_ndim=3) == "g000/a/c/12/0/0/0"
    assert paths.data("hdf5", 1, "a", 12, record_ndim=3) == "g001/a/00012.h5"
    assert paths.commit(0, "a", 12) == "g000/commits/a/00012.json"
    assert paths.rows(0, 12, HASH) == "g000/rows/00012-0000000000000000.parquet"
    assert paths.scale_chunk(2, "a", 5) == "g002/a.scale/c/5/0"


@pytest.mark.parametrize(
    ("folder", "number"), [("g000", 0), ("g012", 12), ("g1234", 1234), ("g0001", None), ("g01", None)]
)
def test_generation_folders(folder, number):
    assert paths.generation_number(folder) == number


@pytest.mark.parametrize(
    ("name", "shard"), [("00012.json", 12), ("123456.json", 123456), ("000012.json", None), ("x.json", None)]
)
def test_record_names(name, shard):
    assert paths.commit_shard(name) == shard
