"""Looking at a store is quick: what it takes no part in is not imported."""

import json
import subprocess
import sys

import pytest

from featcache.testing.stores import StorePlan, make_record, write_store

HEAVY = {"torch", "torchvision", "timm", "pandas", "h5py", "zarr", "scipy", "sklearn", "av", "matplotlib", "PIL"}
LOOK = """
import json, sys
from featcache.store.reader import open_store
store = open_store(sys.argv[1])
store.info()
features = store.feature("a")
features[:], features.rows
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
def test_reading_a_store_imports_nothing_heavy(tmp_path, file_format):
    write_store(tmp_path / "s", StorePlan(records={"a": make_record((4,), "int8")}), file_format=file_format)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "s")], capture_output=True, text=True, check=True, timeout=120
    )
    assert not HEAVY & set(json.loads(done.stdout))
