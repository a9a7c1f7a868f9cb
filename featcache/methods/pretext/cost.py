"""What a step of a pretext task computes, counted by computing the loss of one video."""

from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch

from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.task import Draw, PretextTask
from featcache.networks.counting import count_macs, counting_macs


class TaskCost(NamedTuple):
    """What the loss of one video computes in one forward pass.

    Attributes:
        num_clips: Number of clips that pass the network or the key network; other views are shown to the loss alone.
        trained_macs: Multiply-accumulates that get a gradient: the network, its heads and the loss.
        frozen_macs: Those of the key network and its heads.
        head_macs: Those of both kinds outside of the two networks.
    """

    num_clips: int
    trained_macs: int
    frozen_macs: int
    head_macs: int


def cost_of(task: PretextTask, module: PretextModule, drawn: Draw) -> TaskCost:
    """Count what a loss computes, on black clips.

    Args:
        task: The task.
        module: Its module, on the CPU; left in evaluation mode, and with other keys in its queues.
        drawn: Views and targets of any video.
    """
    module.eval()
    clips = tuple(torch.zeros(1, len(view.frames), 3, view.size, view.size, dtype=torch.uint8) for view in drawn.views)
    targets = {name: torch.from_numpy(np.asarray(target))[None] for name, target in drawn.targets.items()}
    with ExitStack() as blocks:
        trained = blocks.enter_context(module.counting_clips())
        keys = {} if module.follower is None else blocks.enter_context(module.follower.counting_clips())
        macs = blocks.enter_context(counting_macs())
        task.loss(module, clips, targets)
    networks, frozen = module.macs_of(trained) + module.macs_of(keys), 0
    if module.follower is not None:
        vector = torch.zeros(1, module.width)
        heads = sum(count_macs(head, vector) for head in module.follower.heads.values())
        frozen = module.macs_of(keys) + sum(keys.values()) * heads
    return TaskCost(
        num_clips=sum(trained.values()) + sum(keys.values()),
        trained_macs=macs.total - frozen,
        frozen_macs=frozen,
        head_macs=macs.total - networks,
    )
