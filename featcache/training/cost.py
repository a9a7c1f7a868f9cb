"""What training cost: the measured time and memory of an iteration, out of the logs of runs (AdViSe, Table 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

GIGA = 1e9


def measured_cost(lines: Sequence[Mapping[str, Any]], *, num_videos: int, num_clips: int) -> dict[str, float | None]:
    """Means over seeds of the figures that each run logged in its last epoch.

    Args:
        lines: The last line of each seed's log.
        num_videos: Number of videos per step.
        num_clips: Number of clips per video and step.

    Returns:
        ``seconds_an_iteration``; ``peak_memory_gigabytes`` of the GPU, ``None`` on a CPU, where the memory of a
        process is not that of one run.
    """
    seconds = [num_videos * num_clips / line["items_per_second"] for line in lines]
    memory = [line["peak_memory_bytes"] / GIGA for line in lines if line.get("peak_memory_bytes") is not None]
    return {
        "seconds_an_iteration": sum(seconds) / len(seconds),
        "peak_memory_gigabytes": sum(memory) / len(memory) if memory else None,
    }
