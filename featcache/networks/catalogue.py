"""The 3-D networks of the pretext-task benchmark by name. Without torch: a network's file is imported when it is built.

Each is a file of this package with a function ``build(width)``, and a backbone under its name and under each ending of
:data:`WIDTHS` (:mod:`featcache.backbones.clip_networks`).
"""

import importlib
from typing import TYPE_CHECKING

from featcache.errors import unknown_name

if TYPE_CHECKING:
    from featcache.networks.clip_network import ClipNetwork

NETWORKS = {
    "c3d": "C3D with BatchNorm",
    "mobilenet3d": "3D MobileNetV2 1.0x",
    "r21d": "R(2+1)D of one block per stage",
    "r3d": "3D ResNet of one block per stage",
    "shufflenet3d": "3D ShuffleNet V1 2.0x with 3 groups",
    "squeezenet3d": "3D SqueezeNet 1.1",
    "swin3d": "Video Swin-T",
}
"""Names and what they are."""
WIDTHS = {"": 1.0, "-tiny": 1 / 8}
"""Endings of the names of backbones, and factors on the numbers of channels."""


def build_network(name: str, *, width: float = 1.0) -> "ClipNetwork":
    """Build a network with weights drawn from torch's global generator.

    Args:
        name: One of :data:`NETWORKS`.
        width: Factor on the numbers of channels.

    Raises:
        UnknownNameError: There is no such network; names the closest.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    network: ClipNetwork = importlib.import_module(f"featcache.networks.{name}").build(width)
    return network
