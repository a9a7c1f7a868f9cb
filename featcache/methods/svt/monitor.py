"""Signs in a run's log that it goes wrong: collapse, and videos that come too slowly."""

import math
from collections.abc import Mapping

DEVIATION_LIMIT = 0.1
"""Deviation of features below which all videos have nearly one; spread evenly it is about 1."""
ENTROPY_MARGIN = 0.02
"""Of the range of an entropy, from 0 to log P: nearer than this to an end counts as having reached it."""
WAIT_LIMIT = 0.1
"""Share of the time spent waiting for videos above which they are the bottleneck."""


def collapse_sign(line: Mapping[str, float], *, num_prototypes: int) -> str:
    """What the teacher's measures of an epoch say of collapse; empty if nothing.

    Args:
        line: Means over the epoch: ``feature_deviation``, ``entropy`` and ``mean_entropy`` in nats.
        num_prototypes: P.
    """
    largest = math.log(num_prototypes)
    if line["feature_deviation"] < DEVIATION_LIMIT:
        return f"all videos have nearly one feature (deviation {line['feature_deviation']:.2g}, where 1 is spread out)"
    if line["mean_entropy"] < ENTROPY_MARGIN * largest:
        return f"all views fall on one prototype (entropy of the mean {line['mean_entropy']:.2g} nats)"
    if line["entropy"] > (1 - ENTROPY_MARGIN) * largest:
        return f"assignments say nothing (entropy {line['entropy']:.3g} of at most {largest:.3g} nats)"
    return ""


def bottleneck_sign(line: Mapping[str, float], *, workers: int) -> str:
    """Whether training waits for decoding; empty if not.

    Args:
        line: ``wait_share`` of the run so far.
        workers: Processes that decode; 0: a thread.
    """
    if line["wait_share"] <= WAIT_LIMIT:
        return ""
    who = f"{workers} processes" if workers > 1 else "1 process" if workers else "1 thread"
    return (
        f"{line['wait_share']:.0%} of the time went into waiting for videos: decoding, by {who}, is the bottleneck; "
        "raise workers, or encode the videos smaller"
    )
