"""Banks of stores in buckets hold what those of a disk do, wherever their rows are kept."""

import os

import numpy as np
import pytest
import torch

from featcache.errors import BucketError
from featcache.loaders.bank import open_bank
from featcache.loaders.settings import BankSettings
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing.s3_server import s3_server
from featcache.testing.stores import StorePlan, make_record, write_store

BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
PLAN = StorePlan(
    records={"map": make_record((4, 4, 6), "int8"), "pooled": make_record((8,))}, num_videos=4, rows_per_video=(5, 7)
)
VIDEOS, POSITIONS = np.array([3, 1, 1]), np.array([[0, 4, 4], [2, 3, 0], [1, 1, 1]])
URL = "s3://lab/store"


@pytest.fixture(scope="module", autouse=True)
def local(tmp_path_factory):
    local = tmp_path_factory.mktemp("local") / "store"
    write_store(local, PLAN, sampling=BANK)
    with s3_server() as server:
        server.make_bucket("lab")
        write_store(URL, PLAN, sampling=BANK)
        yield local


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("storage", ["auto", "mmap", "disk", "ram"])
def test_clips_are_those_of_a_disk(local, storage):
    there, here = (
        open_bank(BankSettings(store=str(place), feature="map", storage=storage)).clips(VIDEOS, POSITIONS, [0, 0, 0])
        for place in (URL, local)
    )
    assert torch.equal(there.on("cpu"), here.on("cpu"))


def test_a_forked_worker_reads_what_is_kept_here_and_says_why_it_reads_no_more():
    with open_store(URL).feature("pooled") as features:
        rows = features.gather([0, 1])
        features._reader.close()  # kept by now
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(write, features.gather([0, 1]).tobytes())
                features.gather([features.num_rows - 1])
            except BucketError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        said = os.read(read, 10_000)
        os.close(read)
    assert said[: rows.nbytes] == rows.tobytes()
    assert b"start workers with multiprocessing_context='spawn'" in said[rows.nbytes :]
