"""Cells of a table, each measured in a separate process, so that each has its own peak memory and may exhaust it."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MAX_STEPS = 200
OUT_OF_MEMORY = "out of memory"


def measure(script: str, arguments: Sequence[object]) -> dict[str, Any]:
    """Run ``script`` with ``arguments`` and return the last line that it prints, read as JSON.

    A child that the kernel has killed is reported as out of memory.

    Raises:
        SystemExit: The child failed for another reason; its error is printed above.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == -9:
        return {"problem": OUT_OF_MEMORY}
    if done.returncode:
        raise SystemExit(f"the cell {' '.join(map(str, arguments))} failed; its error is above")
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def answer(work: Callable[[], dict[str, Any]]) -> None:
    """In the child: print the result of ``work``, or that memory ran out."""
    import torch

    try:
        facts = work()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        facts = {"problem": OUT_OF_MEMORY}
    print(json.dumps(facts), flush=True)


def limit_memory(num_bytes: int) -> None:
    """Let CPU allocations beyond ``num_bytes`` more than now fail, before the machine begins to swap."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + num_bytes, resource.RLIM_INFINITY))


def peak_bytes(device: str) -> int:
    """Peak memory of this process: torch's allocations on a GPU, otherwise resident memory.

    ``ru_maxrss`` cannot be used: a child starts with the value of its parent.
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def synchronise(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def seconds_a_step(step: Callable[[], object], *, budget_seconds: float, device: str) -> float:
    """Mean seconds per step over as many steps as fit the budget, after a first step that is not counted.

    If the first step takes most of the budget, it is the only one and is counted. The device is waited for once after
    all steps, not after each.
    """

    def run(num_steps: int) -> float:
        started = time.perf_counter()
        for _ in range(num_steps):
            step()
        synchronise(device)
        return time.perf_counter() - started

    first = run(1)
    if 2 * first > budget_seconds:
        return first
    second = run(1)
    left = budget_seconds - first - second
    num_steps = min(MAX_STEPS, int(left / second))
    return run(num_steps) / num_steps if num_steps > 0 else second
