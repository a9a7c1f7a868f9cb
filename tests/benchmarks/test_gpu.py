"""The command for a GPU, without one: what goes wrong in a part stays there, and quick checks run on the CPU."""

import importlib
import json
import re
import subprocess
import sys
import textwrap
import time
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
QUICK = ("matmul highest and high", "a group of one process", "store to device", "maps of a bank to device",
         "sets to device", "exact search", "grid of 52 heads", "probe linear", "three steps of SCALE",
         "a run taken up")  # fmt: skip


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """Scripts import each other by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


@pytest.fixture
def bench(tmp_path):
    module = importlib.import_module("gpu_parts.bench")
    return module.Bench(
        part="some", device="cpu", is_small=True, folder=tmp_path, rows=tmp_path / "rows", ends=time.monotonic() + 60
    )


def fail(error):
    raise error


def test_whatever_happens_to_a_row_is_written_and_the_next_one_runs(bench):
    skipped = importlib.import_module("gpu_parts.bench").SkippedError("no such thing here")
    bench.row("fine", lambda: {"result": "12 a second", "rate": 12.0})
    bench.row("elsewhere", lambda: fail(skipped))
    bench.row("large", lambda: fail(torch.OutOfMemoryError("tried to allocate 80 GiB")))
    bench.row("wrong", lambda: fail(AssertionError("too far apart")))
    bench.row("long", lambda: fail(AssertionError("was begun")), needs=3600)
    rows = [json.loads(line) for line in bench.rows.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "skipped", "does not fit", "failed", "left out"]
    assert rows[0]["rate"] == 12.0
    assert "80 GiB" in rows[2]["result"]
    assert "AssertionError: too far apart" in rows[3]["result"]
    assert "Traceback" in rows[3]["traceback"]
    assert "3600" in rows[4]["result"]


def test_parts_that_hang_or_crash_leave_their_rows_and_do_not_stop_the_next(monkeypatch, tmp_path, capsys):
    gpu = importlib.import_module("gpu")
    script = tmp_path / "part.py"
    script.write_text(
        textwrap.dedent("""
            import json, os, sys, time
            part, rows = sys.argv[sys.argv.index("--part") + 1], sys.argv[sys.argv.index("--rows") + 1]
            with open(rows, "a") as file:
                file.write(json.dumps({"machine": {"gpu": "none"}}) + "\\n")
                file.write(json.dumps({"part": part, "what": "first", "status": "ok", "result": part}) + "\\n")
            if part == "checks":
                time.sleep(60)
            if part == "read":
                os.abort()
        """)
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(gpu, "PARTS", {"checks": 0.5, "read": 4.0, "svt": 4.0})
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--minutes", "0.14", "--out", str(out), "--only", "checks", "read", "svt"]
    )
    with pytest.raises(SystemExit):
        gpu.main()
    document = json.loads(out.read_text())
    assert [(row["part"], row["status"]) for row in document["rows"]] == [
        ("checks", "ok"), ("checks", "stopped"), ("read", "ok"), ("read", "stopped"), ("svt", "ok")
    ]  # fmt: skip
    assert "SIGABRT" in document["rows"][3]["result"]
    assert document["machine"] == {"gpu": "none"}
    assert "stopped: ended after" in capsys.readouterr().out


@pytest.mark.slow
def test_a_device_that_does_not_fit_stops_the_whole(tmp_path):
    command = [sys.executable, str(FOLDER / "gpu.py"), "--out", str(tmp_path / "gpu.json"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "add --small" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_wheels_are_unpacked_and_two_of_one_package_are_refused(tmp_path):
    wheels = importlib.import_module("gpu_parts.wheels")
    with zipfile.ZipFile(tmp_path / "some_thing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some_thing.py", "VALUE = 3")
        archive.writestr("some_thing-1.0.dist-info/METADATA", "Name: some-thing\nVersion: 1.0\n")
    assert wheels.unpack(tmp_path, tmp_path / "site") == ["some_thing-1.0-py3-none-any.whl"]
    assert (tmp_path / "site" / "some_thing.py").read_text() == "VALUE = 3"
    (tmp_path / "some_thing-2.0-py3-none-any.whl").touch()
    with pytest.raises(SystemExit, match="two wheels of some_thing"):
        wheels.unpack(tmp_path, tmp_path / "site")
    with pytest.raises(SystemExit, match="CONTRIBUTING"):
        wheels.unpack(tmp_path / "site", tmp_path)


def test_the_list_of_wheels_has_the_bounds_of_the_project():
    own = {line for line in (FOLDER / "gpu_parts" / "wheels.txt").read_text().splitlines() if not line.startswith("#")}
    required = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split("[<>=!]", line)[0]: line for line in required}
    shared = {line for line in own if re.split("[<>=!]", line)[0] in names}
    assert "av" in {re.split("[<>=!]", line)[0] for line in shared}
    assert shared <= set(required)


@pytest.mark.parametrize("name", QUICK)
def test_quick_checks_hold_on_the_cpu(name, tmp_path):
    assert importlib.import_module("gpu_parts.checks").CHECKS[name]("cpu", tmp_path)


def test_a_check_fails_where_values_are_apart():
    comparing = importlib.import_module("gpu_parts.checks.comparing")
    assert comparing.distance(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert comparing.within(0.1, 0.2, "values") == "values 0.1"
    for wrong in (torch.tensor([3.0, 4.5]), torch.tensor([3.0, torch.nan]), torch.ones(3)):
        with pytest.raises(AssertionError):
            comparing.within(comparing.distance(wrong, torch.tensor([3.0, 4.0])), 0.05, "values")


def test_steps_of_networks_and_of_tasks_are_measured(bench, monkeypatch):
    networks = importlib.import_module("gpu_parts.networks")
    monkeypatch.setattr(networks, "NETWORKS", ["shufflenet3d"])
    monkeypatch.setattr(networks, "TASKS", SimpleNamespace(names=lambda: ["rotnet", "rspnet"]))
    networks.run(bench)
    rows = [json.loads(line) for line in bench.rows.read_text().splitlines()]
    assert [(row["what"].split(",")[0], row["status"]) for row in rows] == [
        ("rotnet on shufflenet3d-tiny", "ok"), ("rotnet on shufflenet3d-tiny", "skipped"), ("rspnet on r21d-tiny", "ok")
    ]  # fmt: skip
    assert rows[2]["videos_per_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_is_green_on_a_laptop(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--small", "--device", "cpu", "--minutes", "18"]
    subprocess.run([*command, "--out", str(out)], check=True, cwd=tmp_path)
    rows = json.loads(out.read_text())["rows"]
    parts = importlib.import_module("gpu_parts").PARTS
    assert {row["part"] for row in rows} == set(parts)
    assert {row["status"] for row in rows} <= {"ok", "skipped"}
