"""The parts of `benchmarks/gpu.py`: one module each, with a function `run(bench)` that measures rows.

A part is added by its module and a line here. Nothing is imported before a part runs, in a process of its own.
"""

PARTS: dict[str, float] = {
    "checks": 120.0,
    "extract": 120.0,
    "read": 20.0,
    "advise": 60.0,
    "svt": 45.0,
    "probe": 35.0,
    "scale": 80.0,
}
"""Seconds that each part has out of the eight minutes of all, in the order in which they run. What one leaves goes to
those after it; the last has rows that a compiler makes slow."""
