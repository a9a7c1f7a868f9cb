"""What long commands say off a terminal, on a clock of the test's own."""

import re

import pytest
from typer.testing import CliRunner

from featcache.cli import console
from featcache.cli.console import LINE_SECONDS, Lines, bars
from featcache.cli.main import app


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return []


@pytest.fixture
def lines(written, clock):
    return Lines(written.append, clock=clock)


def test_a_line_every_thirty_seconds_says_done_failed_rate_and_time_left(lines, written, clock):
    assert LINE_SECONDS == 30
    lines.update("extract", 0, 400)
    for second in range(1, 91):
        clock.now = 1000.0 + second
        lines.update("extract", 2 * second, 400, "wait 3 s", num_failed=1 if second > 40 else 0)
    assert written == [
        "extract: 60 of 400 (15 %), 2 a second, about 2 min 50 s left, wait 3 s",
        "extract: 120 of 400 (30 %), 1 failed, 2 a second, about 2 min 20 s left, wait 3 s",
        "extract: 180 of 400 (45 %), 1 failed, 2 a second, about 1 min 50 s left, wait 3 s",
    ]


def test_a_stage_that_begins_again_has_a_rate_of_its_own_and_a_finished_one_has_none(lines, written, clock):
    lines.update("test", 0, 100)
    clock.now += 29
    lines.update("test", 100, 100)
    clock.now += 1
    lines.tick()
    lines.update("test", 0, 100)
    clock.now += 30
    lines.update("test", 60, 100)
    assert written == ["test: 100 of 100 (100 %)", "test: 60 of 100 (60 %), 2 a second, about 20.0 s left"]


def test_what_does_not_move_is_said_too(lines, written, clock):
    lines.tick()
    assert written == [], "nothing is known yet"
    lines.update("scan", 3, 10)
    for second in range(61):
        clock.now = 1000.0 + second
        lines.tick()
    assert written == ["scan: 3 of 10 (30 %)"] * 2


def test_the_rate_is_that_of_the_stage(lines, written, clock):
    lines.update("scan", 0, 10)
    clock.now += 29
    lines.update("scan", 10, 10)
    lines.update("extract", 100, 300)  # a run that was taken up
    clock.now += 20
    lines.update("extract", 110, 300)
    assert written == ["extract: 110 of 300 (37 %), 0.5 a second, about 6 min 20 s left"]


def test_an_empty_stage_has_no_share(lines, written, clock):
    lines.update("scan", 0, 0)
    clock.now += 30
    lines.tick()
    assert written == ["scan: 0 of 0"]


def test_lines_go_to_stderr_where_it_is_no_terminal(clock, capsys):
    with bars(clock=clock) as drawn:
        drawn.update("extract", 1, 4)
        clock.now += 31
        drawn.update("extract", 2, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("extract: ")
    with bars(quiet=True, clock=clock) as drawn:
        clock.now += 31
        drawn.update("extract", 2, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_silences(quiet, monkeypatch, tmp_path):
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    flags = ["--quiet"] if quiet else []
    result = CliRunner().invoke(app, ["scan", str(tmp_path), "--out", str(tmp_path / "videos.parquet"), *flags])
    assert bool(re.search(r"^scan: 1 of 1 \(100 %\)", result.stderr, re.MULTILINE)) is not quiet
    assert (tmp_path / "videos.parquet").exists()
