"""Output that all benchmarks share: the machine, medians, and JSON on request."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The machine in words, without its name."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    gpu = "none"
    try:
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
    except ImportError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "zarr", "av")},
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    built = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    built.add_argument("--json", action="store_true", help="print JSON instead of a table")
    built.add_argument("--repeats", type=int, default=5, help="runs of each side, interleaved; medians are printed")
    return built


def report(name: str, rows: Sequence[dict[str, Any]], *, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print one table, the machine and the notes."""
    if as_json:
        print(json.dumps({"benchmark": name, "machine": machine(), "rows": rows, "notes": notes}, indent=2))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"# {name}")
    for line in cells:
        print(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )
    for note in notes:
        print(note)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def cpu_seconds() -> float:
    """User and system time of this process and the children it waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@contextmanager
def counted(folder: Path) -> Iterator[None]:
    """Add the CPU seconds of a block to those that earlier calls have spent in a folder."""
    began = cpu_seconds()
    try:
        yield
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu-seconds").write_text(str(spent(folder) + cpu_seconds() - began))


def spent(folder: Path) -> float:
    """CPU seconds that all calls have spent in a folder."""
    path = folder / "cpu-seconds"
    return float(path.read_text()) if path.exists() else 0.0


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation``, with n - 1 in the deviation; a single value is given alone."""
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
