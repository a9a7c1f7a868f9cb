"""The benchmark of pretext tasks on networks: one cell, and the views of a task beside decoding alone."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def networks(monkeypatch):
    """Scripts import each other by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("networks")


def test_a_cell_and_the_views_of_a_task(networks, tmp_path):
    num_frames = networks.frames_for(["rotnet", "vcop"])
    assert num_frames == 64
    networks.make_videos(tmp_path / "videos", 2, num_frames=num_frames)
    args = argparse.Namespace(batch=2, steps=1, device="cpu", threads=1, precision="float32", workers=0)
    found = networks.cell("vcop", "shufflenet3d-tiny", tmp_path, args)
    assert found["videos/s"] > 0
    assert found["CPU s a step"] > 0
    assert found["wait share"] <= 1
    assert found["M of heads"] < found["M parameters"] < 0.5
    views = networks.views_of("vcop", tmp_path / "videos")
    assert views["frames"] == 3 * 16
    assert views["ms"] > views["decoding ms"] > 0
