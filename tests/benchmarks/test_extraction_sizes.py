"""Sizes of shipped extractions: rows by hand, and a dry run of each file on an official tree of a few videos."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.extract.lacking import rows_per_video
from featcache.extract.scanning import read_source
from featcache.testing.datasets import SAMPLES

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*/*_extract.yaml"))


NO_BACKBONE = SimpleNamespace(card=SimpleNamespace(num_frames=1, frame_stride=1, crop_fraction=0.875))


@pytest.fixture
def sizes(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("extraction_sizes")


def test_every_shipped_extraction_of_a_data_set_can_be_counted(sizes):
    found = list(sizes.extractions(sorted((ROOT / "configs").rglob("*.yaml"))))
    assert {path for path, _ in found} >= set(FILES)
    assert {settings.dataset for _, settings in found} == set(sizes.FACTS)


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("scale/ucf101_extract.yaml", 9537 * 16 + 3783 * 15),
        ("scale/lvu_extract.yaml", 11_565 * (16 + 15)),
        ("advise/ucf101_extract.yaml", (9537 * 4 + 3783 * 3) * 182),
        ("advise/k400_extract.yaml", 260_000 * 154),
    ],
)
def test_rows_by_hand(sizes, file, rows):
    ((_, settings),) = sizes.extractions([ROOT / "configs" / file])
    assert sizes.count(sizes.sampling_of(settings, NO_BACKBONE), sizes.FACTS[settings.dataset]) == rows


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_dry_run_prints_the_bytes_of_every_array(sizes, file, tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.extract.estimate.NUM_MEASURED", 0)  # a large model on few cores takes minutes
    SAMPLES[load(file).dataset](tmp_path / "tree")
    words = ["--root", str(tmp_path / "tree"), "--out", str(tmp_path / "store")]
    arrays = range(len(load(file).features))
    random = [word for place in arrays for word in ("--set", f"features.{place}.weights=random")]
    given = ["extract", "--config", str(file), *words, *random]
    planned = json.loads(CliRunner().invoke(app, [*given, "--dry-run", "--json"], catch_exceptions=False).stdout)
    extraction = load(file, roots={load(file).dataset: str(tmp_path / "tree")})
    listed = read_source(extraction, on_scan=lambda done, total: None)
    rows = sum(rows_per_video(listed.videos, sizes.sampling_of(extraction, NO_BACKBONE)))
    assert [array["name"] for array in planned["features"]] == [feature.name for feature in extraction.features]
    for array, feature in zip(planned["features"], extraction.features, strict=True):
        itemsize = {"float16": 2, "int8": 1}[feature.precision]
        assert array["num_bytes"] == rows * math.prod(array["shape"]) * itemsize > 0
    assert planned["num_bytes"] == sum(array["num_bytes"] for array in planned["features"])
    assert not (tmp_path / "store").exists()
