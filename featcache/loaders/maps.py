"""Maps of clips as a store holds them, which become float32 on the device of the module that reads them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from featcache.backbones.outputs import join_maps, pool_channels, pool_space


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMaps:
    """Maps of one feature.

    Attributes:
        values: [..., h, w, C], floating, or int8 with scales, or uint8 pixels.
        scales: float32 [..., C], by which int8 values are multiplied; ``None``: they are what they are.
    """

    values: Tensor
    scales: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scales is not None:
            expected = (*self.values.shape[:-3], self.values.shape[-1])
            assert self.scales.shape == expected, f"scales {tuple(self.scales.shape)} are not {expected}"

    def __getitem__(self, rows: slice | Tensor) -> "StoredMaps":
        return StoredMaps(values=self.values[rows], scales=None if self.scales is None else self.scales[rows])

    def to(self, device: torch.device | str) -> "StoredMaps":
        """The same maps on a device, in their stored dtype."""
        is_ahead = torch.device(device).type == "cuda"  # pinned memory is copied while the CPU goes on
        scales = None if self.scales is None else self.scales.to(device, non_blocking=is_ahead)
        return StoredMaps(values=self.values.to(device, non_blocking=is_ahead), scales=scales)

    def pinned(self) -> "StoredMaps":
        """The same maps in memory that a GPU copies from while the CPU goes on; what is on a GPU stays there."""
        if self.values.device.type != "cpu":
            return self
        scales = None if self.scales is None else self.scales.pin_memory()
        return StoredMaps(values=self.values.pin_memory(), scales=scales)

    @property
    def multiplied(self) -> Tensor:
        """The values times their scales: float32 if there are scales, otherwise the values themselves."""
        return self.values if self.scales is None else self.values * self.scales[..., None, None, :]


@dataclass(frozen=True, slots=True)
class ClipMaps:
    """Maps of clips, [B, T, h, w, C] once their features are joined.

    They travel as they are stored: int8 takes a quarter of float32 in memory and on the way to a device.

    Attributes:
        features: Maps [B, T, h, w, C] of each feature; grids may differ.
    """

    features: tuple[StoredMaps, ...]

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Maps [B, T, h, w, C] of a single feature, without scales."""
        return cls((StoredMaps(values=values),))

    def __len__(self) -> int:
        return len(self.features[0].values)

    @property
    def joined(self) -> Tensor:
        """All features side by side, [B, T, h, w, sum of C]; int8 as float32, floats in their stored dtype."""
        return join_maps([feature.multiplied for feature in self.features])

    def on(self, device: torch.device | str) -> Tensor:
        """All features side by side on a device, float32 [B, T, h, w, sum of C]."""
        return ClipMaps(tuple(feature.to(device) for feature in self.features)).joined.float()

    def pinned(self) -> "ClipMaps":
        """The maps in memory that a GPU copies from while the CPU goes on."""
        return ClipMaps(tuple(feature.pinned() for feature in self.features))

    def split(self, num_parts: int) -> "list[ClipMaps]":
        """The maps in so many parts of equally many clips."""
        parts = []
        size = len(self) // num_parts
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            parts.append(ClipMaps(tuple(each[rows] for each in self.features)))
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """SFU at reading (AdViSe §3.2): channels first, then space, equal to pooling before storing.

    Attributes:
        grid: Side of the pooled map; ``None``: as stored.
        channels: Number of channels after averaging neighbours; ``None``: as stored.
    """

    grid: int | None
    channels: int | None

    @property
    def is_identity(self) -> bool:
        """Whether maps stay as they are stored."""
        return self.grid is None and self.channels is None

    def __call__(self, maps: ClipMaps) -> ClipMaps:
        """Join and pool maps of all features; fp16 stays fp16, int8 becomes float32."""
        if self.is_identity:
            return maps
        values = maps.joined
        if self.channels is not None:
            values = pool_channels(values, self.channels)
        return ClipMaps.of(values if self.grid is None else pool_space(values, self.grid))
