"""A store has no symbolic links: its folders are neither read nor written through one."""

import shutil

import numpy as np
import pytest

from featcache.errors import CorruptStoreError
from featcache.exchange.importing import import_features
from featcache.exchange.settings import ImportSettings
from featcache.recipes import SamplingRecipe
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, add_generation, commit, make_recipe, make_record, write_store

PLAN = StorePlan(records={"a": make_record((4,), "int8")}, num_videos=4)
FOLDERS = ["features", "locks", "config", "g000", *(f"g000/{name}" for name in ("rows", "commits", "commits/a", "a"))]
FOLDERS += ["g000/a.scale", "plans"]


def write_all(path, *, config=b"command: extract\n"):
    """Everything that a writer writes: descriptions, plan, locks, rows, features, records, settings."""
    with StoreWriter.open(path, sampling=SamplingRecipe()) as writer:
        writer.declare_feature("a", make_recipe(precision="int8"), PLAN.records["a"])
        writer.keep_config("extract-0123456789ab.yaml", config)
        with writer.planning_lock():
            generation = next(iter(writer.generations()), None) or add_generation(writer, PLAN)
        for shard in range(generation.num_shards):
            with writer.shard_lock(generation, shard):
                commit(writer, generation, shard, PLAN)


def files_under(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "filled"])
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_no_folder_is_written_through_a_link(tmp_path, name, is_empty, inside):
    path = tmp_path / "s"
    if not is_empty:
        write_all(path)
    target = path / "elsewhere" if inside else tmp_path / "outside"
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    if is_empty:
        if inside:
            shutil.rmtree(path)  # a new store goes into an empty folder
            StoreWriter.open(path, sampling=SamplingRecipe()).close()
            shutil.rmtree(path / name, ignore_errors=True)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
        else:
            write_all(tmp_path / "whole")
            for file in ("featcache.json", "zarr.json"):
                shutil.copy(tmp_path / "whole" / file, path / file)
        target.mkdir()
    else:
        (path / name).rename(target)
        for record in (target if "commits" in name else path).rglob("00000.json"):
            record.unlink()  # so that there is something to write
    (path / name).symlink_to(target)
    before = files_under(target)
    with pytest.raises(CorruptStoreError, match=f"{path / name} is a symbolic link; a store has none"):
        write_all(path, config=b"command: other\n")
    assert files_under(target) == before
    assert not verify(path).ok


@pytest.mark.parametrize("name", ["features", "g000", "g000/commits", "g000/commits/a", "g000/rows", "g000/a"])
def test_no_folder_is_read_through_a_link(tmp_path, name):
    write_all(tmp_path / "s")
    (tmp_path / "s" / name).rename(tmp_path / "outside")
    (tmp_path / "s" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptStoreError, match="is a symbolic link"):
        _ = (features := open_store(tmp_path / "s").feature("a")).rows, features[:]
    assert any("symbolic link" in problem.what for problem in verify(tmp_path / "s").problems)


@pytest.mark.parametrize("name", ["zarr.json", "featcache.json"])
def test_no_file_of_a_new_store_is_a_link(tmp_path, name):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match=r"symbolic link|not a featcache store and not empty"):
        write_all(tmp_path / "s")
    assert not (tmp_path / "victim").exists()


def test_gc_locks_and_removes_nothing_through_a_link(tmp_path):
    write_all(tmp_path / "s")
    (tmp_path / "outside").mkdir()
    left_over = tmp_path / "outside" / ".x.0123456789abcdef.tmp"
    left_over.write_bytes(b"precious")
    shutil.rmtree(tmp_path / "s" / "locks")
    (tmp_path / "s" / "locks").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptStoreError, match="locks is a symbolic link"):
        gc(tmp_path / "s")
    (tmp_path / "s" / "locks").unlink()
    (tmp_path / "s" / "g001").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "rows").mkdir()
    (tmp_path / "outside" / "rows" / "00000-0123456789abcdef.parquet").write_bytes(b"precious")
    with pytest.raises(CorruptStoreError, match="g001 is a symbolic link"):
        gc(tmp_path / "s")
    assert len(files_under(tmp_path / "outside")) == 2


def test_an_import_writes_no_settings_through_a_link(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "x.npy", np.ones((2, 3), np.float32))
    settings = ImportSettings(
        source=str(tmp_path / "in"), format="npy", out=str(tmp_path / "s"), feature={"backbone": "theirs"}
    )
    import_features(settings)
    shutil.rmtree(tmp_path / "s" / "config")
    (tmp_path / "outside").mkdir()
    (tmp_path / "s" / "config").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptStoreError, match="config is a symbolic link"):
        import_features(settings)
    assert not files_under(tmp_path / "outside")


def test_a_store_that_is_reached_through_a_link_is_a_store(tmp_path):
    write_store(tmp_path / "real" / "s", PLAN)
    (tmp_path / "way").symlink_to(tmp_path / "real")
    write_store(tmp_path / "way" / "s", PLAN)
    assert verify(tmp_path / "way" / "s").ok
    assert len(open_store(tmp_path / "way" / "s").feature("a").rows)
