"""All checks and measurements on a GPU, in one command.

    python benchmarks/gpu.py                          # all, in eight minutes on one H100 or H200
    python benchmarks/gpu.py --only checks scale      # some: checks extract read scale advise svt networks probe
    python benchmarks/gpu.py --small --device cpu     # the same code on a laptop
    python benchmarks/gpu.py --wheels DIR             # takes missing libraries from wheels (CONTRIBUTING.md)

Each part runs in a process of its own with a time limit of its own: a part that fails, crashes or hangs does not stop
the next, and keeps the rows that it has measured. After each part the JSON file holds all rows so far. The script runs
from a checkout with only torch, torchvision, timm, transformers, pyarrow, h5py, scikit-learn, typer and rich installed,
and needs no network; other libraries come from ``--wheels``.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [folder for folder in (str(HERE), str(HERE.parent)) if folder not in sys.path]

from gpu_parts import PARTS  # noqa: E402  the path is set just above
from gpu_parts.wheels import unpack  # noqa: E402

MINUTES = 8.0
GRACE_SECONDS = 10.0
"""Seconds beyond its time limit after which a part is killed; rows check the time themselves."""
USAGE = 2
"""Exit code of a part that cannot run with the given options, with which no other part could run either."""
COLUMNS = ("part", "what", "result", "peak GB", "note")


def main() -> None:
    """Run the parts one after the other, then print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    options.add_argument("--small", action="store_true", help="sizes for a laptop")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; without a GPU give --small too")
    options.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts together, in seconds")
    options.add_argument("--wheels", type=Path, help="folder of wheels to add to the path")
    options.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON file")
    options.add_argument("--folder", type=Path, help="where parts write; a temporary folder by default")
    options.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.part:
        run_part(args)
        return
    with tempfile.TemporaryDirectory(prefix="featcache-gpu-", dir=args.folder) as name:
        document = run_all(args, Path(name))
    print_table(document)
    print(f"written to {args.out}")
    if any(row["status"] in ("failed", "stopped") for row in document["rows"]):
        raise SystemExit(1)


def run_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run each part in a child process and write the document after each."""
    began, planned = time.monotonic(), 0.0
    share = (60 * args.minutes - GRACE_SECONDS) / sum(PARTS[part] for part in args.only)
    paths = [str(HERE), str(HERE.parent)]
    document: dict[str, Any] = {"benchmark": "gpu", "small": args.small, "machine": {}, "wheels": [], "rows": []}
    if args.wheels is not None:
        document["wheels"] = unpack(args.wheels, folder / "site")
        paths.insert(0, str(folder / "site"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    for part in args.only:
        planned += share * PARTS[part]
        budget = planned - (time.monotonic() - began)
        print(f"{part}: {max(0.0, budget):.0f} s at most", file=sys.stderr, flush=True)
        for row in rows_of(part, args, folder / part, budget=budget, environment=environment):
            if "machine" in row:
                document["machine"] = row["machine"]
            else:
                document["rows"].append(row)
        args.out.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return document


def rows_of(
    part: str, args: argparse.Namespace, folder: Path, *, budget: float, environment: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of one part, and one more row if its process was killed or crashed."""
    if budget <= 0:
        yield {"part": part, "what": "all", "status": "left out", "result": "the time of the whole is over"}
        return
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.touch()
    command = [
        sys.executable, __file__, "--part", part, "--rows", str(rows), "--folder", str(folder),
        "--seconds", str(budget), "--device", args.device, *(["--small"] if args.small else []),
    ]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=2, env=environment, start_new_session=True)
    problem = ""
    try:
        code = child.wait(budget + GRACE_SECONDS)
        if code == USAGE:
            raise SystemExit(USAGE)
        if code:
            problem = f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    except subprocess.TimeoutExpired:
        problem = f"ended after {budget + GRACE_SECONDS:.0f} s"
    finally:
        end_group(child)
    lines = rows.read_text(encoding="utf-8").splitlines()
    yield from map(json.loads, lines)
    if problem:
        seconds = round(time.monotonic() - began, 1)
        yield {"part": part, "what": "all", "status": "stopped", "result": problem, "seconds": seconds}


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """Kill a part and every process that it has started."""
    with contextlib.suppress(ProcessLookupError):  # no process is left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_part(args: argparse.Namespace) -> None:
    """In a child: measure the part's rows after describing the machine."""
    ends = time.monotonic() + args.seconds
    import importlib

    import torch
    from common import machine
    from gpu_parts.bench import Bench, DeviceLostError

    from featcache.errors import ConfigError
    from featcache.machine import resolve_device

    try:
        device = resolve_device(args.device)
        if device == "cpu" and not args.small:
            raise ConfigError("the device is the CPU, on which these sizes would take hours; add --small")
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(USAGE) from error
    if args.small:  # the networks are so small that a second thread would only wait
        torch.set_num_threads(1)
    facts = machine()
    if device != "cpu":
        torch.cuda.set_device(torch.device(device) if ":" in device else 0)
        properties = torch.cuda.get_device_properties(torch.device(device))
        facts |= {"cuda": torch.version.cuda, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
    with args.rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"machine": facts}) + "\n")
    bench = Bench(
        part=args.part, device=device, is_small=args.small, folder=args.folder, rows=args.rows, ends=ends
    )  # fmt: skip
    try:
        importlib.import_module(f"gpu_parts.{args.part}").run(bench)
    except DeviceLostError as error:
        raise SystemExit(f"the GPU answers no more: {error}") from error


def print_table(document: dict[str, Any]) -> None:
    """Print all rows in one table."""
    lines = [COLUMNS, *(tuple(shown(row)) for row in document["rows"])]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(", ".join(f"{key} {value}" for key, value in document["machine"].items()))


def shown(row: dict[str, Any]) -> Iterator[str]:
    """The cells of a row as text."""
    result = row["result"] if row["status"] == "ok" else f"{row['status']}: {row['result']}"
    yield from (row["part"], row["what"], result[:120], str(row.get("peak_gb", "")), str(row.get("note", "")))


if __name__ == "__main__":
    main()
