"""Checks of a device against the CPU; `pytest -m gpu` runs the same."""

import shutil
from functools import partial
from typing import Any

import torch

from gpu_parts.bench import Bench
from gpu_parts.checks import backbones, machine, probes, stores, training
from gpu_parts.checks.comparing import Check

CHECKS: dict[str, Check] = {
    **machine.CHECKS,
    **stores.CHECKS,
    **probes.CHECKS,
    **training.CHECKS,
    **backbones.CHECKS,
}
"""Checks by name, quick ones first."""
NOT_SMALL = {f"backbone {name}" for name in backbones.NAMES} - {f"backbone {name}" for name in backbones.QUICK}


def run(bench: Bench) -> None:
    """Run one row per check, each with the same number of CPU threads."""
    threads = torch.get_num_threads()
    for name, check in CHECKS.items():
        if not (bench.is_small and name in NOT_SMALL):
            bench.row(name, partial(_measured, check, bench, threads))


def _measured(check: Check, bench: Bench, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    folder = bench.folder / "check"
    folder.mkdir()
    try:
        return {"result": check(bench.device, folder)}
    finally:
        shutil.rmtree(folder)
