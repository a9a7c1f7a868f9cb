"""Hostile weights, listings, YAML, manifests, stores, imports and runs: no traceback, and nothing touched outside.

``python -m tests.security.fuzz FOLDER FIRST LAST`` runs any cases by hand; see :mod:`tests.security.fuzz`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder, first, last):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "tests.security.fuzz", str(folder), str(first), str(last)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(processes, num_cases):
    results = []
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
        results.append(json.loads(out.splitlines()[-1]))
    print({name: sum(result[name] for result in results) for name in ("cases", "steps", "refused")})
    for result in results:
        assert not result["tracebacks"], "\n\n".join(result["tracebacks"][:5])
        assert not result["touched"], "\n".join(result["touched"][:20])
    assert sum(result["cases"] for result in results) == num_cases
    assert sum(result["refused"] for result in results) > num_cases // 2, "most cases are hostile indeed"


def test_a_few_cases(tmp_path):
    check([start(tmp_path / "a", 0, 16)], 16)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_three_thousand_cases(tmp_path):
    check([start(tmp_path / "a", 0, 1500), start(tmp_path / "b", 1500, 3000)], 3000)


STEPS = {
    "open": "open(victim, 'w').close()",
    "os.rename": "os.rename(victim, victim + '2'); os.rename(victim + '2', victim)",
    "os.symlink": "os.symlink('x', victim + '3')",
    "os.link": "os.link(victim, victim + '4')",
    "os.mkdir": "os.mkdir(victim + '5')",
    "os.rmdir": "os.rmdir(victim + '5')",
    "os.chmod": "os.chmod(victim, 0o600)",
    "os.truncate": "os.truncate(victim, 0)",
    "os.remove": "os.remove(os.path.basename(victim), dir_fd=os.open(os.path.dirname(victim), os.O_RDONLY))",
    "os.system": "os.system('true')",
}


def test_the_hook_sees_what_is_done_outside(tmp_path):
    """So that its silence means something."""
    code = (
        "import json, os, sys; from pathlib import Path; from tests.security.watch import Watch\n"
        "watch = Watch(); sys.addaudithook(watch); mine, victim = sys.argv[1:]; watch.allowed = Path(mine)\n"
        "open(mine + '/x', 'w').close(); os.mkdir(mine + '/y'); os.rename(mine + '/x', mine + '/z'); seen = {}\n"
        "assert not watch.touched\n"
    )
    for name, step in STEPS.items():
        code += f"{step}; seen[{name!r}] = [what.split()[0] for what in watch.touched]; watch.touched.clear()\n"
    (tmp_path / "allowed").mkdir()
    (tmp_path / "victim").write_text("x")
    paths = [str((tmp_path / name).resolve()) for name in ("allowed", "victim")]
    command = [sys.executable, "-c", code + "print(json.dumps(seen))", *paths]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {name: name in seen for name, seen in json.loads(ran.stdout).items()} == dict.fromkeys(STEPS, True)
