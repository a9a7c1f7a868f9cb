"""A student and its teacher, each a TimeSformer with a projection head, and the centre of what the teacher says."""

import copy
import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from featcache.backbones.branches import load_branch
from featcache.backbones.svt import load_image_weights, read_svt
from featcache.backbones.weights import read_state_dict
from featcache.methods.svt.pixels import network_input
from featcache.methods.svt.settings import SvtSettings
from featcache.networks.dino_head import DinoHead
from featcache.networks.timesformer import SIZES, TimeSformer, TimeSformerConfig, config_of
from featcache.training.generators import seeded_torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a network makes of V views of B videos.

    Attributes:
        features: float [V, B, C], class tokens.
        logits: float32 [V, B, P].
    """

    features: Tensor
    logits: Tensor


class Branch(nn.Module):
    """A network with its head; names are those of SVT's checkpoint.

    Attributes:
        backbone: The network, which is kept after pre-training.
        head: The head, which is not.
    """

    def __init__(self, backbone: TimeSformer, head: DinoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, clips: Sequence[Tensor], views: Collection[int], *, groups: Sequence[Sequence[int]]) -> Answer:
        """See some of the views; those of one shape in one pass, then the head once over all.

        Args:
            clips: All views by number, uint8 [B, T, 3, S, S].
            views: Numbers of those to see.
            groups: Numbers of views of equal shape; see :func:`featcache.methods.svt.views.same_shapes`.

        Returns:
            Of ``views`` in ascending order.
        """
        features: dict[int, Tensor] = {}
        for group in groups:
            wanted = [view for view in group if view in views]
            if wanted:
                tokens = self.backbone(network_input(torch.cat([clips[view] for view in wanted])))
                features.update(zip(wanted, tokens.chunk(len(wanted)), strict=True))
        stacked = torch.stack([features[view] for view in sorted(features)])
        return Answer(features=stacked, logits=self.head(stacked))


class SvtPretraining(nn.Module):
    """Everything with state: the student is trained, the teacher follows it.

    Args:
        student: As it begins; the teacher begins as its copy.

    Attributes:
        student: Trained.
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


def build_module(settings: SvtSettings, *, seed: int) -> SvtPretraining:
    """Student and teacher as a run of this seed begins, on the CPU; what is taken from a file is logged.

    Raises:
        WeightsError: Weights that cannot be read, or of another size.
    """
    with seeded_torch(seed, "svt"):
        backbone = _initial_backbone(settings)
        head = DinoHead(
            backbone.config.width,
            hidden=settings.head.hidden,
            bottleneck=settings.head.bottleneck,
            num_prototypes=settings.head.prototypes,
        )
        return SvtPretraining(Branch(backbone, head))


def _initial_backbone(settings: SvtSettings) -> TimeSformer:
    init = settings.init
    if init.weights is None:
        return TimeSformer(_config(settings, SIZES[settings.size], num_frames=settings.time_positions))
    path = Path(init.weights).expanduser()
    if init.start == "image":
        state: Mapping[str, Tensor] = read_state_dict(path)
        network = TimeSformer(_config(settings, config_of(settings.size, state), num_frames=settings.time_positions))
        keys = load_image_weights(network, state, source=_said(path, settings), copies_to_time=init.copies_to_time)
    else:
        state, dropped = read_svt(path)
        config = config_of(settings.size, state)
        network = TimeSformer(_config(settings, config, num_frames=config.num_frames))
        keys = load_branch(network, state, source=_said(path, settings), dropped=dropped)
    log.info("%s", keys)
    return network


def _config(settings: SvtSettings, config: TimeSformerConfig, *, num_frames: int) -> TimeSformerConfig:
    return dataclasses.replace(
        config,
        num_frames=num_frames,
        drop_path=settings.drop_path,
        recomputes_blocks=settings.recomputes_blocks,
    )


def _said(path: Path, settings: SvtSettings) -> str:
    return f"init.weights {path} for size {settings.size!r}"
