"""The cost of a temporal module: counted parameters and operations, and measured time and memory per iteration.

Source: AdViSe, Tables 2, 3 and 6. The printed parameters of Tables 2 and 3 are those of the module's convolutions only,
and printed FLOPs are multiply-accumulates of the module on one clip; Tables 6 and 8 count module and head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier

MEGA, GIGA = 1e6, 1e9


def counted_cost(
    tmm: TmmSettings, *, shape: tuple[int, int, int], num_frames: int, num_classes: int
) -> dict[str, float]:
    """Counts of one module on one clip, without running it on data.

    Args:
        tmm: The module and its head.
        shape: ``(h, w, C)`` of a map.
        num_frames: Number of frames of the clip.
        num_classes: Number of outputs of the head.

    Returns:
        ``convolution_megaparameters`` of the module alone, ``megaparameters`` of module and head, both in millions;
        ``gigamacs`` of the module for one clip, in billions (1e9) of multiply-accumulates.
    """
    height, width, depth = shape
    with torch.device("meta"):
        network = TmmClassifier(tmm, width_in=depth, grid=height, num_classes=num_classes).eval()
        clip = torch.empty(1, depth, num_frames, height, width)
    return {
        "convolution_megaparameters": count_parameters(network.tmm, of=(nn.Conv3d,)) / MEGA,
        "megaparameters": count_parameters(network) / MEGA,
        "gigamacs": count_macs(network.tmm, clip) / GIGA,
    }


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
