"""A student and its teacher, each a TimeSformer with a projection head, and the centre of the teacher's logits."""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featcache.networks.dino_head import DinoHead
from featcache.networks.timesformer import TimeSformer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """Outputs of a network for V views of B videos.

    Attributes:
        features: float [V, B, C], class tokens.
        logits: float32 [V, B, P].
    """

    features: Tensor
    logits: Tensor


class Branch(nn.Module):
    """A network with its head; parameter names are those of SVT's checkpoint.

    Attributes:
        backbone: The network, which is kept after pre-training.
        head: The head, which is discarded after pre-training.

    Args:
        backbone: The network.
        head: The head.
        prepare: Turns uint8 pixels [B, T, 3, S, S] into the network's input, float of the same shape.
    """

    def __init__(self, backbone: TimeSformer, head: DinoHead, *, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._prepare = prepare

    def forward(self, clips: Sequence[Tensor], views: Collection[int], *, groups: Sequence[Sequence[int]]) -> Answer:
        """Encode some of the views, those of equal shape in one forward pass, then apply the head to all at once.

        Args:
            clips: All views by number, uint8 [B, T, 3, S, S].
            views: Numbers of the views to encode.
            groups: Numbers of views of equal shape, which one forward pass can take together.

        Returns:
            Outputs for ``views`` in ascending order.
        """
        features: dict[int, Tensor] = {}
        for group in groups:
            wanted = [view for view in group if view in views]
            if wanted:
                tokens = self.backbone(self._prepare(torch.cat([clips[view] for view in wanted])))
                features.update(zip(wanted, tokens.chunk(len(wanted)), strict=True))
        stacked = torch.stack([features[view] for view in sorted(features)])
        return Answer(features=stacked, logits=self.head(stacked))


class SvtPretraining(nn.Module):
    """Everything with state: the student is trained, and the teacher follows it.

    Args:
        student: The student before training; the teacher starts as its copy.

    Attributes:
        student: The network that is trained.
        teacher: A moving average of the student, without gradients. Stochastic depth is on in it too, as in SVT's code;
            DINO's has none.
        center: float32 [P], the moving mean of the teacher's logits.
    """

    center: Tensor

    def __init__(self, student: Branch) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(requires_grad=False)
        self.register_buffer("center", torch.zeros(student.head.last_layer.weight_v.shape[0]))

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """Keep ``momentum`` of each weight of the teacher and take the rest from the student (DINO, §3.1)."""
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1.0 - momentum)
