"""Maps of clips as a store holds them, which become float32 on the device of the module that reads them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from featcache.backbones.outputs import join_maps


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

    def to(self, device: torch.device | str) -> "StoredMaps":
        """The same maps on a device, in their stored dtype."""
        scales = None if self.scales is None else self.scales.to(device)
        return StoredMaps(values=self.values.to(device), scales=scales)

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
