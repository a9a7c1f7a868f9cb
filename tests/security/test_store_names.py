"""No name in a store reaches outside it, and no document runs code or is believed about paths."""

import json

import pytest

from featcache.errors import FeatcacheError
from featcache.files.sealed import seal
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, make_recipe, make_record, write_store

RECORDS = {"a": make_record((4,))}
PLAN = StorePlan(records=RECORDS, num_videos=4)


@pytest.fixture(params=["zarr", "hdf5"])
def path(request, tmp_path):
    write_store(tmp_path / "s", PLAN, file_format=request.param)
    return tmp_path / "s"


def tamper(path, **members):
    """Change members of a sealed document and seal it again, as an attacker would."""
    document = json.loads(path.read_bytes())
    document.pop("checksum")
    for name, value in members.items():
        document[name] = value
    path.write_bytes(seal(document))


def read(path):
    features = open_store(path).feature("a")
    return features[:], features.rows


HOSTILE_NAMES = ["../../outside", "/etc/passwd", "..", "a/../../b", "a\0b", "C:\\x", ""]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_in_documents_are_not_paths(path, name):
    """Hashes and names come from documents; each is checked against what it must be before it meets a path."""
    record = path / "g000" / "commits" / "a" / "00000.json"
    content = record.read_bytes()
    for members in (
        {"rows": {"sha256": name, "num_bytes": 1}},
        {"rows": {"sha256": (name + "0" * 64)[:64], "num_bytes": 1}},
        {"feature": name},
        {"recipe_hash": name},
        {"plan_hash": name},
        {"int8_scale": name},
    ):
        tamper(record, **members)
        with pytest.raises(FeatcacheError):
            read(path)
        report = verify(path)
        assert not report.ok
        record.write_bytes(content)
    plan = path / "g000" / "plan.json"
    tamper(plan, videos={"sha256": (name + "0" * 64)[:64], "num_bytes": 1})
    with pytest.raises(FeatcacheError):
        read(path)


@pytest.mark.parametrize(
    "members",
    [
        {"data": {}},
        {"data": []},
        {"data": None},
        {"num_ok": -1},
        {"num_ok": True},
        {"num_ok": 10**9},
        {"failed": {}},
        {"failed": [{"status": "ok"}]},
        {"failed": [{"id": "v", "status": "timeout", "reason": "", "first_row": 3, "num_rows": 1}]},
        {"rows": None},
        {"provenance": 3},
        {"kind": "plan"},
        {"format": "other"},
        {"version": 2},
        {"version": "1"},
        {"shard": 1},
        {"shard": -0.0},
        {"shard": False},
        {"generation": 0.0},
        {"generation": "g000"},
    ],
)
def test_documents_of_other_shapes_are_errors_not_crashes(path, members):
    tamper(path / "g000" / "commits" / "a" / "00000.json", **members)
    with pytest.raises(FeatcacheError):
        read(path)
    assert not verify(path).ok


@pytest.mark.parametrize("field", ["num_bytes", "data_offset", "block_rows", "block_crc32c"])
@pytest.mark.parametrize("value", [-1, 0, 3, 10**15, "x", None, [1]])
def test_sizes_and_offsets_that_lie_never_lead_outside_the_file(path, field, value):
    record = path / "g000" / "commits" / "a" / "00000.json"
    data = json.loads(record.read_bytes())["data"]
    lie = 1 if data[field] == value else value
    tamper(record, data={**data, field: lie})
    with pytest.raises(FeatcacheError):
        read(path)
    assert not verify(path).ok


@pytest.mark.parametrize(
    "members",
    [
        {"name": "../a"},
        {"record": {"shape": [4, 10**12], "axes": ["w", "c"], "dtype": "float16"}},
        {"record": {"shape": [5], "axes": ["c"], "dtype": "float16"}},
        {"record": {"shape": [4], "axes": ["c"], "dtype": "float32"}},
        {"record": {"shape": [4], "axes": ["c"], "dtype": "object"}},
        {"record": {"shape": [-4], "axes": ["c"], "dtype": "float16"}},
        {"record": {"shape": "4", "axes": ["c"], "dtype": "float16"}},
        {"record": 1},
        {"recipe": {"backbone": 1}},
        {"recipe": []},
    ],
)
def test_feature_documents_of_other_shapes_are_errors(path, members):
    tamper(path / "features" / "a.json", **members)
    with pytest.raises(FeatcacheError):
        read(path)


def test_hostile_feature_file_names_are_not_features(path):
    sealed = (path / "features" / "a.json").read_bytes()
    for name in ("..json", ".json", "a b.json", "é.json", "commits.json"):
        (path / "features" / name).write_bytes(sealed)
        with pytest.raises(FeatcacheError):
            open_store(path)
        (path / "features" / name).unlink()
    read(path)


def test_links_to_files_and_folders_outside_are_refused(path, tmp_path):
    """A data file, a record, a row table and a folder that lead out are not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    data = next(file for file in (path / "g000" / "a").rglob("*") if file.name in {"0", "00000.h5"} and file.is_file())
    record = path / "g000" / "commits" / "a" / "00000.json"
    rows = sorted((path / "g000" / "rows").iterdir())[0]
    for number, file in enumerate((data, record, rows)):
        target = outside / str(number)
        target.write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(target)
        with pytest.raises(FeatcacheError):
            read(path)
        assert not verify(path).ok
        file.unlink()
        file.write_bytes(target.read_bytes())
    read(path)
    (path / "g000" / "a").rename(outside / "a")
    (path / "g000" / "a").symlink_to(outside / "a")
    with pytest.raises(FeatcacheError):
        read(path)


def test_writing_through_a_link_does_not_reach_outside(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    with StoreWriter.open(tmp_path / "s", sampling=SamplingRecipe()) as writer:
        (tmp_path / "s" / "features").mkdir()
        (tmp_path / "s" / "features" / "a.json").symlink_to(outside)
        with pytest.raises(FeatcacheError):
            writer.declare_feature("a", make_recipe(), RECORDS["a"])
    assert outside.read_bytes() == b"precious"
