"""C3D with BatchNorm of VCOP, PRP and RSPNet: 27,661,440 parameters. From 16 frames of 112 pixels to 2 x 7 x 7 x 512.

Eight convolutions as in Tran et al., arXiv:1412.0767, without its two fully connected layers. Modules have the names of
VCOP's code.
"""

from torch import nn

from featcache.networks.clip_network import StackedNetwork, scaled

CHANNELS = {"1": 64, "2": 128, "3a": 256, "3b": 256, "4a": 512, "4b": 512, "5a": 512, "5b": 512}
POOLS = {"1": (1, 2, 2), "2": (2, 2, 2), "3b": (2, 2, 2), "4b": (2, 2, 2)}
MIN_FRAMES = 8
"""What the pools over time leave one frame of."""
LAYERS = ("relu1", "relu2", "relu3b", "relu4b", "relu5b")


def build(width: float = 1.0) -> StackedNetwork:
    """Build the network; ``width`` is a factor on the numbers of channels."""
    parts: dict[str, nn.Module] = {}
    before = 3
    for name, channels in CHANNELS.items():
        after = scaled(channels, width)
        parts[f"conv{name}"] = nn.Conv3d(before, after, 3, padding=1)
        parts[f"bn{name}"] = nn.BatchNorm3d(after)
        parts[f"relu{name}"] = nn.ReLU(inplace=True)
        if name in POOLS:
            parts[f"pool{name[0]}"] = nn.MaxPool3d(POOLS[name])
        before = after
    return StackedNetwork(parts, layers=LAYERS, channels=before, width=width, min_frames=MIN_FRAMES)
