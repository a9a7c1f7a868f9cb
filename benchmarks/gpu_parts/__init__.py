"""The parts of `benchmarks/gpu.py`: one module each, with a function `run(bench)` that measures rows.

To add a part, add its module and a line here. Nothing is imported before a part runs, in a process of its own.
"""

PARTS: dict[str, float] = {
    "checks": 120.0,
    "extract": 120.0,
    "read": 20.0,
    "advise": 60.0,
    "svt": 45.0,
    "networks": 45.0,
    "probe": 35.0,
    "scale": 80.0,
}
"""Seconds for each part out of eight minutes in total, in the order in which they run. Time that one part does not use
goes to those after it; the last part has rows that are slow to compile."""
