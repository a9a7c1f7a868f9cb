"""Run cases of the fuzz in one process, under an audit hook that records what is written where; prints JSON.

``python -m tests.security.fuzz FOLDER FIRST LAST`` runs the cases ``FIRST`` to ``LAST - 1``, each the same on every
machine. A case is hostile input and the commands that read it. What counts:

* **A traceback**: anything but an exit code of 0, or of 1 with one sentence on stderr.
* **A touch outside**: a file opened to write, a rename, link, folder, removal or change of mode outside the case's own
  folder, as Python's audit events tell, or a change in the victim's folder, which libraries cannot hide.
"""

import contextlib
import io
import json
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch

from featcache.cli import main as entry
from featcache.seeding import rng_for
from tests.security import fuzz_cases
from tests.security.watch import Watch

CASE_SECONDS = 120
MEMORY_BYTES = 24 << 30  # of address space; torch and Arrow reserve a good part of it


def run_step(step) -> tuple[int, str | None]:
    """Carry out a command line or a call as the entry point does: its exit code, and what was wrong with its end."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    app = entry.app
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if callable(step):
                    entry.app = step
                else:
                    sys.argv = ["featcache", *step]
                entry.main()
            except SystemExit as stop:
                code = stop.code or 0
    except BaseException:
        return -1, traceback.format_exc()
    finally:
        entry.app = app
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error:")]
    if "Traceback" in err.getvalue() or "Traceback" in out.getvalue():
        return code, err.getvalue()
    if code not in (0, 1) or (code == 1 and len(errors) != 1 and "verify" not in step):
        return code, f"exit code {code}: {err.getvalue()[:500]}"
    if "weights_only" in err.getvalue() or "set_int_max_str_digits" in err.getvalue():
        return code, f"unsafe advice: {err.getvalue()[:500]}"
    if any(ord(c) < 32 and c != "\n" for c in out.getvalue() + err.getvalue()):
        return code, f"control characters: {(out.getvalue() + err.getvalue())[:500]!r}"
    return code, None


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def run(folder: Path, first: int, last: int) -> dict:
    """All cases; the counts, and what was wrong."""
    torch.set_num_threads(1)
    victim = folder / "victim"
    victim.mkdir(parents=True)
    for name in ("settings", "settings.npy", "settings.json"):
        (victim / name).write_text("precious")
    (folder / "stores").mkdir()
    fuzz_cases.prepare(folder / "stores")
    before = snapshot(victim)
    watch = Watch()
    sys.addaudithook(watch)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    counts = {"cases": 0, "steps": 0, "refused": 0}
    tracebacks, touched = [], []
    for number in range(first, last):
        rng = rng_for(0, "hostile", number)
        kind = fuzz_cases.KINDS[number % len(fuzz_cases.KINDS)]
        case = folder / "cases" / str(number)
        case.mkdir(parents=True)
        steps = kind(case, rng, victim)
        counts["cases"] += 1
        for place, step in enumerate(steps):
            counts["steps"] += 1
            signal.alarm(CASE_SECONDS)
            watch.allowed = case.resolve()
            code, problem = run_step(step)
            counts["refused"] += code == 1
            watch.allowed = None
            signal.alarm(0)
            where = f"case {number} ({kind.__name__}), step {place}"
            if problem:
                tracebacks.append(f"{where}: {problem[-3000:]}")
            touched += [f"{where}: {what}" for what in watch.touched]
            watch.touched.clear()
            if snapshot(victim) != before:
                touched.append(f"{where}: the victim's folder has changed")
                before = snapshot(victim)
        shutil.rmtree(case)
    return {**counts, "tracebacks": tracebacks, "touched": touched}


def main() -> None:
    """Entry point."""
    folder, first, last = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(run(folder, first, last)))


if __name__ == "__main__":
    main()
