"""What a temporal module costs: counted parameters and operations, without running it on data.

Source: AdViSe, Tables 2, 3 and 6. The printed parameters of Tables 2 and 3 are those of the module's convolutions only,
and printed FLOPs are multiply-accumulates of the module on one clip; Tables 6 and 8 count module and head.
"""

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
        num_classes: Outputs of the head.

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
