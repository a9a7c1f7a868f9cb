"""I3D's features of real clips bring like to like. Needs FEATCACHE_SHARED."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featcache.retrieval import VideoQuery, search
from featcache.retrieval.nearest import Engine
from featcache.retrieval.run import By
from featcache.retrieval.sheet import TILE_WIDTH

pytestmark = pytest.mark.shared
ENGINES: tuple[Engine, ...] = ("exact", "faiss")
SOCCER = "ucf101/SoccerJuggling/v_SoccerJuggling_g{}_c01.avi"


def cli(*arguments: object) -> Any:
    command = [sys.executable, "-m", "featcache", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "i3d"
    weights = shared / "data" / "weights" / "inception_i3d_rgb_k400.safetensors"
    options = ("--backbone", "i3d", "--weights", weights, "--clips", 1, "--device", "cpu")
    result = cli("extract", shared / "data" / "videos", *options, "--out", out)
    assert result["videos_failed"] == 0
    return out


@pytest.mark.parametrize("by", ["clip", "video"])
@pytest.mark.parametrize(("one", "other"), [(23, 24), (24, 23)])
def test_a_soccer_clip_finds_the_other_soccer_clip(store: Path, shared: Path, one: int, other: int, by: By) -> None:
    query = VideoQuery(shared / "data" / "videos" / SOCCER.format(one))
    for engine in ENGINES:
        hits = search(store, query, by=by, engine=engine, device="cpu").hits
        assert [hit.video for hit in hits[:2]] == [SOCCER.format(one), SOCCER.format(other)]
        assert hits[0].score == pytest.approx(1, abs=1e-4)


def test_the_command_without_the_query_itself(store: Path, shared: Path, tmp_path: Path) -> None:
    query, sheet = shared / "data" / "videos" / SOCCER.format(23), tmp_path / "hits.png"
    options = ("--video", query, "--device", "cpu", "-k", 5, "--exclude-self", "--sheet", sheet)
    found = cli("search", store, *options)
    assert found["excluded"] == [SOCCER.format(23)]
    assert found["hits"][0]["video"] == SOCCER.format(24)
    assert found["hits"][0]["label"] == "SoccerJuggling"
    assert found["hits"][1]["score"] < found["hits"][0]["score"]
    with Image.open(sheet) as picture:
        assert picture.width == 5 * TILE_WIDTH
