"""Detects collapse of training without labels, with metrics that fall before the accuracy of a probe does."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

DEVIATION_LIMIT = 0.1
"""Deviation of features below which all videos have nearly the same feature; evenly spread features have about 1."""

ENTROPY_MARGIN = 0.02
"""Share of an entropy's range, from 0 to log P, within which an end of the range counts as reached."""

WAIT_LIMIT = 0.1
"""Share of time spent waiting for videos above which decoding is the bottleneck."""

# As in the paper of RankMe, to avoid a division by zero.
_EPSILON = 1e-7


def mean_assignment_entropy(assignments: Tensor) -> Tensor:
    """Entropy in nats of the mean assignment; 0 if all items have one prototype, log P if all are used equally.

    Args:
        assignments: floating [N, P], rows summing to 1.
    """
    return _entropy(assignments.float().mean(dim=0))


def assignment_entropy(assignments: Tensor) -> Tensor:
    """Mean entropy in nats of an item's assignment; log P for uniform assignments, the other kind of collapse.

    Args:
        assignments: floating [N, P], rows summing to 1.
    """
    return _entropy(assignments.float()).mean()


def feature_deviation(features: Tensor) -> Tensor:
    """Standard deviation of a channel of features of unit length, averaged over channels, times the square root of C.

    About 1 for evenly spread directions, 0 if all are the same (Chen & He, SimSiam, CVPR 2021, §4.1).

    Args:
        features: floating [N, C].
    """
    unit = functional.normalize(features.float(), dim=-1)
    deviation: Tensor = unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5
    return deviation


def rank_me(features: Tensor) -> Tensor:
    """RankMe: the exponential of the entropy of the singular values, an effective rank from 1 to min(N, C).

    Source: Garrido et al., ICML 2023, Eq. 1-2.

    Args:
        features: floating [N, C]; if N is well above C, the value does not depend on N.

    Returns:
        Scalar; NaN if features are not finite, for which a decomposition would raise.
    """
    features = features.float()
    singular = torch.linalg.svdvals(features.nan_to_num(posinf=0.0, neginf=0.0))
    singular = singular.where(features.isfinite().all(), torch.nan)
    return _entropy(singular / singular.sum().clamp_min(_EPSILON) + _EPSILON).exp()


def _entropy(probabilities: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return entropy


def collapse_sign(line: Mapping[str, float], *, num_prototypes: int) -> str:
    """Describe a collapse that the teacher's metrics of an epoch show; empty if there is none.

    Args:
        line: Means over the epoch: ``feature_deviation``, ``entropy`` and ``mean_entropy`` in nats.
        num_prototypes: Number of prototypes P.
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
    """Say that training waits for decoding; empty if it does not.

    Args:
        line: Line of the log with ``wait_share``.
        workers: Number of decoding processes; 0: a thread.
    """
    if line["wait_share"] <= WAIT_LIMIT:
        return ""
    who = f"{workers} processes" if workers > 1 else "1 process" if workers else "1 thread"
    return (
        f"{line['wait_share']:.0%} of the time went into waiting for videos: decoding, by {who}, is the bottleneck; "
        "raise workers, or encode the videos smaller"
    )
