"""The doctor survives whatever an optional part does when it is imported, and says what to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache import doctor
from featcache.cli.main import app
from featcache.doctor import Trial, attempt
from featcache.errors import ConfigError
from featcache.files import disks
from featcache.testing import faults
from featcache.testing.plugins import put_package

TRIAL = Trial(part="stub", module="stub", fix="pip install stub", code="import stub\nprint(stub.WORD)")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``stub`` that children find; to be filled."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "stub.py"


def test_what_works(stub: Path) -> None:
    stub.write_text("WORD = 'all is well'")
    found = attempt(TRIAL)
    assert (found.state, found.note, found.fix) == ("ok", "all is well", "")


def test_what_is_not_there() -> None:
    found = attempt(TRIAL)
    assert (found.state, found.note, found.fix) == ("absent", "stub is not installed", "pip install stub")
    needed = Trial(part="stub", module="stub", fix="pip install stub", code="", optional=False)
    assert attempt(needed).state == "broken"


@pytest.mark.parametrize(
    ("body", "note"),
    [
        (
            "raise ImportError('libnothing.so.7: cannot open shared object file')",
            "ImportError: libnothing.so.7: cannot",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes the interpreter (SIGSEGV)"),
        ("import os; os._exit(3)", "ends with exit code 3"),
        ("WORD = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_broken(stub: Path, body: str, note: str) -> None:
    stub.write_text(body)
    found = attempt(TRIAL)
    assert found.state == "broken"
    assert note in found.note
    assert found.fix == "pip install --force-reinstall stub"


def test_what_hangs_is_ended_with_all_it_started(stub: Path, tmp_path: Path) -> None:
    stub.write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "print('about to hang', flush=True)\n"
        "time.sleep(600)\n"
    )
    found = attempt(TRIAL, deadline_seconds=3)
    assert (found.state, found.note) == ("broken", "gives no answer within 3 seconds")
    grandchild = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    for _ in range(100):  # until its new parent has collected it
        if not grandchild.exists() or grandchild.read_text().rpartition(") ")[2][0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what the child started is still there")


def test_a_better_fix_and_a_voluntary_absence(stub: Path) -> None:
    stub.write_text("WORD = 'fix: install a driver'")
    found = attempt(TRIAL)
    assert (found.state, found.note, found.fix) == ("ok", "", "install a driver")
    stub.write_text("print('fix: install a driver', flush=True)\nraise RuntimeError('no driver')")
    found = attempt(TRIAL)
    assert (found.state, found.note, found.fix) == ("broken", "RuntimeError: no driver", "install a driver")
    stub.write_text("WORD = 'absent'")
    assert attempt(TRIAL).state == "absent"


def test_a_folder_of_the_users_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert attempt(TRIAL).state == "absent"


@pytest.mark.parametrize("part", ["ffmpeg", "decoder pyav"])
def test_parts_that_every_installation_has(part: str) -> None:
    (trial,) = (trial for trial in doctor.TRIALS if trial.part == part)
    found = attempt(trial)
    assert (found.state, found.fix) == ("ok", "")
    assert found.note


def test_every_optional_part_has_a_fix() -> None:
    names = {trial.part for trial in doctor.TRIALS}
    assert {"decoder torchcodec", "decoder decord", "transformers", "datasets", "webdataset", "fiftyone", "faiss",
            "cuda", "nvidia-ml", "ffmpeg", "weights"} <= names  # fmt: skip
    assert all(trial.fix for trial in doctor.TRIALS)


def test_the_report_survives_a_torch_that_crashes(tmp_path: Path) -> None:
    """The worst case: the library under everything takes its interpreter with it."""
    folder = tmp_path / "broken"
    for module in ("torch", "transformers", "datasets", "webdataset", "torchcodec", "decord", "faiss", "av"):
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    done = subprocess.run(
        [sys.executable, "-m", "featcache", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert findings.keys() >= {"python", "cores", "torch", "disk", *(trial.part for trial in doctor.TRIALS)}
    for part in ("transformers", "datasets", "decoder torchcodec", "decoder decord", "cuda", "ffmpeg"):
        assert findings[part]["state"] == "broken", part
        assert findings[part]["note"].endswith("crashes the interpreter (SIGSEGV)"), part
        assert findings[part]["fix"], part
    assert all(finding["state"] == "ok" or finding["fix"] for finding in findings.values())


def test_a_broken_plug_in_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"featcache.probes": {"sound": "labsound:PROBE", "broken": "labbroken:PROBE"}}
    files = {
        "labbroken.py": "import nothing_there",
        "labsound.py": "from featcache.evaluation.probes import KNN as PROBE",
    }
    put_package(tmp_path, "lab", version="0.3", files=files, entries=entries)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {trial.part: attempt(trial) for trial in doctor.plugin_trials()}
    assert (found["plug-in sound"].state, found["plug-in sound"].note) == ("ok", "probe of lab 0.3")
    broken = found["plug-in broken"]
    assert (broken.state, broken.fix) == ("broken", "repair or uninstall lab 0.3")
    assert "probe 'broken' of package lab 0.3 cannot be loaded from labbroken:PROBE (ModuleNotFoundError" in broken.note


def test_no_part_is_examined_by_importing_a_network_where_its_version_will_do() -> None:
    code = "".join(trial.code for trial in doctor.TRIALS)
    for library in ("timm", "torchvision", "open_clip", "sklearn"):
        assert library not in code
    heavy = [trial.part for trial in doctor.TRIALS if "featcache" in trial.code and trial.part != "faiss"]
    for part in heavy:
        (trial,) = (trial for trial in doctor.TRIALS if trial.part == part)
        code = f"{trial.code}\nimport sys\nassert 'torch' not in sys.modules, {part!r}\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "AssertionError" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("disk", "state", "note"),
    [
        ("ordinary", "ok", "publishes by hard links; has locks"),
        ("neither", "ok", "has no hard links, publishes by renaming folders; has no locks, shares work by leases"),
    ],
)
def test_the_disk_of_a_folder_is_tried(tmp_path: Path, disk: str, state: str, note: str) -> None:
    with faults.DISKS[disk].imitated():
        (found,) = (one for one in doctor.examine([], folder=tmp_path) if one.part == "disk")
    assert (found.state, list(tmp_path.iterdir())) == (state, [])
    assert note in found.note


def test_a_disk_on_which_nothing_can_be_published_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_spares_full_folders", lambda box: False)
    with faults.DISKS["no links"].imitated():
        found = doctor.examine([], folder=tmp_path)[-1]
    assert (found.state, found.fix) == ("broken", "write the store elsewhere")
    assert "lacks hard links" in found.note
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert isinstance(result.exception, ConfigError)
    assert "nowhere is no folder" in str(result.exception)


@pytest.mark.slow
def test_the_report_of_this_machine() -> None:
    findings = doctor.examine()
    assert {finding.state for finding in findings} <= {"ok", "absent", "broken"}
    assert all(finding.state == "ok" or finding.fix for finding in findings)


@pytest.mark.parametrize(("usable", "note"), [(4, "4 of 64 may be used"), (64, "64")])
def test_the_cores_that_may_be_used_are_told(usable: int, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(doctor, "num_cores", lambda: usable)
    assert {found.part: found.note for found in doctor._machine()}["cores"] == note
