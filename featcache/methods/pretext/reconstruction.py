"""Heads on a network's last map: what class is it, and what did its clip look like?"""

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_CHANNELS = 512


def convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """A convolution of 3 x 3 x 3 that keeps the size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=1), nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True)
    )


class Fit(nn.Module):
    """Brings maps to the size and the channels that other heads expect; maps that have both pass as they are.

    Attributes:
        channels: Number of channels of the result: those of the map, but at most 512.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = min(channels, MOST_CHANNELS)
        self.reduce = nn.Identity() if channels == self.channels else nn.Conv3d(channels, self.channels, 1)

    def forward(self, maps: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Maps [B, channels, *size] of maps [B, C, t, h, w]."""
        if maps.shape[2:] != size:
            maps = functional.interpolate(maps, size, mode="trilinear", align_corners=False)
        fitted: Tensor = self.reduce(maps)
        return fitted


class ClassBranch(nn.Module):
    """Logits of a map [B, C, t, h, w]: a convolution, the average, a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.linear(self.conv(maps).mean(dim=(2, 3, 4)))
        return logits


class PixelBranch(nn.Module):
    """A clip of sixteen times the size of a map in time and space, with values of at least 0 (PRP).

    A convolution, then four times: twice the size by a transposed convolution, and a convolution; channels are halved
    three times.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [max(1, channels // factor) for factor in (1, 2, 4, 8)]
        steps: list[nn.Module] = [convolution(channels, channels)]
        for before, after in zip(widths, (*widths[1:], 3), strict=True):
            steps += [nn.ConvTranspose3d(before, before, 2, stride=2), convolution(before, after)]
        self.steps = nn.Sequential(*steps)

    def forward(self, maps: Tensor) -> Tensor:
        """Pixels [B, 16 t, 3, 16 h, 16 w] of maps [B, C, t, h, w]."""
        pixels: Tensor = self.steps(maps)
        return pixels.transpose(1, 2)


class PatchBranch(nn.Module):
    """The pixels of each cell of a map, by one convolution of 3 x 3 x 3 and one of 1 x 1 x 1: a light decoder."""

    def __init__(self, channels: int, num_pixels: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(convolution(channels, channels), nn.Conv3d(channels, num_pixels, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Pixels [B, t, h, w, num_pixels] of maps [B, C, t, h, w]."""
        pixels: Tensor = self.steps(maps)
        return torch.movedim(pixels, 1, -1)


def real_frames(is_slowest: Tensor, *, num_frames: int) -> Tensor:
    """Which frames count (PRP), bool [B, num_frames]: at rate 1 every other one, since those between are repeats."""
    is_real = torch.arange(num_frames, device=is_slowest.device) % 2 == 0
    return is_real[None] | ~is_slowest[:, None]


def pixel_loss(pixels: Tensor, target: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Weighted squared error, the mean over the frames that count of each clip, then over clips.

    Args:
        pixels: float [B, T, 3, S, S].
        target: float [B, T, 3, S, S] in [0, 1].
        weights: float [B, T, 3, S, S].
        counts: bool [B, T].
    """
    errors = (weights * (pixels - target).square()).mean(dim=(2, 3, 4))
    return ((errors * counts).sum(dim=1) / counts.sum(dim=1)).mean()
