"""The fault matrix: some cases of each part are carried out and kept, and a bad one is told."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from featcache.store.verify import Problem, Report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("fault_matrix")


@pytest.mark.parametrize(
    ("part", "disk", "scale"),
    [
        ("calls", "neither", 0.003),
        ("kills", "no locks", 0.003),
        ("errors", "no links", 0.002),
        ("flips", "neither", 2e-4),
    ],
)
def test_a_share_of_a_part(matrix, tmp_path, part, disk, scale):
    matrix.run(part, disk, folder=tmp_path, scale=scale)
    (log,) = tmp_path.iterdir()
    before = log.read_text()
    assert [json.loads(line)["bad"] for line in before.splitlines()] == [""]
    matrix.run(part, disk, folder=tmp_path, scale=scale)
    assert log.read_text() == before  # what is done is kept
    (row,) = (row for row in matrix.table(tmp_path) if row["part"] == part)
    assert row[disk] == row["in all"] > 0
    assert row["bad"] == 0


def test_what_is_bad_is_counted(matrix, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "verify", lambda path: Report(problems=[Problem(path="a", what="torn")]))
    matrix.run("errors", "ordinary", folder=tmp_path, scale=0.02)
    (row,) = (row for row in matrix.table(tmp_path) if row["part"] == "errors")
    assert (row["ordinary"], row["bad"]) == (0, 1)
    assert "torn" in capsys.readouterr().err
