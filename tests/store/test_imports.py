"""Looking at a store is quick: what takes no part in it is not imported."""

import json
import subprocess
import sys

import pytest

from featcache.testing.stores import StorePlan, make_record, write_store

HEAVY = {"torch", "torchvision", "timm", "pandas", "h5py", "zarr", "scipy", "sklearn", "av", "matplotlib", "PIL"}
LOOK = """
from featcache.store.reader import open_store
store = open_store(PATH)
store.info()
features = store.feature("a")
features[:], features.rows
"""
ADD = """
from featcache.data.types import VideoRecord
from featcache.store.overlay import Amendment
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
store = open_store(PATH)
with StoreWriter.open(PATH, sampling=store.sampling, file_format=store.file_format) as writer:
    old = store.generations[0]
    writer.add_overlay([Amendment(video=old.videos[0].id, record=old.videos[0], removed=True)])
    shape = {"shard_rows": old.shard_rows, "encode_batch": 1, "threads": 1}
    writer.add_generation(old.videos, old.segments, old.num_shards, **shape)
"""


def imported(code, path):
    """Packages that a program has imported at its end."""
    last = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    code = f"PATH = {str(path)!r}\n{code}{last}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
@pytest.mark.parametrize("code", [LOOK, ADD], ids=["look", "add"])
def test_reading_and_planning_import_nothing_heavy(tmp_path, file_format, code):
    write_store(tmp_path / "s", StorePlan(records={"a": make_record((4,), "int8")}), file_format=file_format)
    assert not HEAVY & imported(code, tmp_path / "s")
