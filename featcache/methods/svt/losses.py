"""Self-distillation between views (Caron et al., ICCV 2021, Eq. 1-3; SVT §3.3): loss, centre, temperatures."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from featcache.methods.svt.pairs import Pair
from featcache.methods.svt.settings import SvtLossSettings


def distillation_loss(
    student: Tensor, targets: Tensor, pairs: Sequence[Pair], *, temperature: float, sums: bool = False
) -> Tensor:
    """Cross-entropy between a student's prediction from one view and its teacher's assignment of another.

    Each term is the mean over videos. Only dot products and normalisers are computed per pair, so memory beyond the
    logits grows with the number of views, not of pairs.

    Args:
        student: float32 [S, B, P], logits of the student's views.
        targets: float32 [V, B, P], assignments of the teacher's views, rows summing to 1; they get no gradient.
        pairs: Positions in ``student`` and in ``targets`` that are compared; see
            :func:`featcache.methods.svt.pairs.positions_of`.
        temperature: Temperature by which the student's logits are divided.
        sums: Sum the terms, as in the paper's formula, instead of averaging them, as in the released code.

    Returns:
        Scalar.
    """
    students, teachers = _places(tuple(pairs), student.device)
    with torch.autocast(student.device.type, enabled=False):
        logits = student.float() / temperature
        agreement = torch.einsum("sbp,vbp->svb", logits, targets.detach().float())
        # -sum_p target log softmax(logits), with targets that sum to 1
        terms = (logits.logsumexp(dim=-1).unsqueeze(1) - agreement).mean(dim=-1)[students, teachers]
    return terms.sum() if sums else terms.mean()


@functools.lru_cache(maxsize=16)
def _places(pairs: tuple[Pair, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the students and of the teachers, int64 [number of pairs] each.

    A run has few different pairs, and copying them to a GPU at every step would wait for it.
    """
    return (
        torch.tensor([pair.student for pair in pairs], device=device),
        torch.tensor([pair.teacher for pair in pairs], device=device),
    )


def teacher_targets(logits: Tensor, center: Tensor, *, temperature: float) -> Tensor:
    """A teacher's assignments: the softmax of centred, sharpened logits, float32 of their shape, without a gradient.

    Args:
        logits: floating [..., P].
        center: float32 [P], or one for each row.
        temperature: Temperature by which the logits are divided.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return ((logits.detach().float() - center) / temperature).softmax(dim=-1)


def reversal_center(logits: Tensor) -> Tensor:
    """The centre of each view: the mean of a teacher's logits for it and for its reversal, float32 [V, 2B, P].

    What a view and its reversal share, such as the picture, is not in the centred logits, which are opposite numbers.

    Args:
        logits: floating [V, 2B, P], of B videos and then of their reversals.
    """
    forwards, backwards = logits.detach().float().chunk(2, dim=1)
    return ((forwards + backwards) / 2).repeat(1, 2, 1)


def moved_center(center: Tensor, logits: Tensor, *, momentum: float) -> Tensor:
    """The centre of the next step: a moving average of the mean over a teacher's views and videos (DINO, Eq. 4).

    It is computed from this step's logits and used from the next step on.

    Args:
        center: float32 [P]; not changed.
        logits: floating [..., P], the teacher's logits. With several processes and equal batches: the mean over the
            processes of each one's mean.
        momentum: Share of the previous centre that is kept.
    """
    return torch.lerp(logits.detach().float().flatten(0, -2).mean(dim=0), center, momentum)


def teacher_temperature(settings: SvtLossSettings, epoch: float) -> float:
    """The teacher's temperature at a fractional epoch: linear over the warm-up, then constant."""
    if epoch >= settings.teacher_warmup_epochs:
        return settings.teacher_temperature
    share = epoch / settings.teacher_warmup_epochs
    return settings.first_teacher_temperature + share * (
        settings.teacher_temperature - settings.first_teacher_temperature
    )
