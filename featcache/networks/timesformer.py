"""TimeSformer with divided space-time attention (Bertasius et al., arXiv:2102.05095) in the form that SVT trains.

SVT (Ranasinghe et al., arXiv:2112.01514, §3.2.3) encodes clips of many sizes and lengths with one set of positions,
which are resized to each clip. Parameters have the names of its checkpoint.

Differs from SVT: attention is a fused kernel; the rows that stochastic depth keeps are drawn before the first block, so
that a checkpointed block sees the same rows in both passes. The stem ``difference`` and other deviations of the initial
weights are ours: the published network starts blind to the order of frames, see :doc:`docs/svt.md`.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from featcache.errors import ConfigError

Stem = Literal["patches", "difference"]
SpaceInterpolation = Literal["nearest", "bilinear", "bicubic"]
TimeInterpolation = Literal["nearest", "linear"]

# Factors by which stochastic depth multiplies the residuals of one block: in time [B*h*w, 1, 1], in space [B*t, 1, 1]
# and after the MLP [B, 1, 1]; each is 0 or 1 / (1 - rate).
KeptRows = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSformerConfig:
    """Sizes of the network; the defaults are ViT-B/16 as in SVT's checkpoint.

    Attributes:
        width: Number of channels of a token.
        depth: Number of blocks.
        num_heads: Number of heads of both attentions; divides ``width``.
        mlp_ratio: Hidden channels of the MLP as a multiple of ``width``.
        patch_size: Side of a patch in pixels.
        image_size: Input side in pixels for which the grid of positions is learned.
        num_frames: Number of frames for which the time positions are learned; 8 in SVT's checkpoint, 16 in its paper.
        drop_path: Stochastic depth rate of the last block; it grows linearly from 0 at the first.
        space_interpolation: How positions are resized to another grid; SVT trains with ``nearest``.
        time_interpolation: How time positions are resized to another number of frames; SVT trains with ``nearest``.
        stem: What a patch is embedded from: ``patches``, its pixels; ``difference``, also how they change to the next
            frame, as three further channels.
        init_std: Deviation of the initial weights of linear layers.
        time_std: Deviation of the initial time positions.
        is_temporal_zero: Whether ``temporal_fc`` is initialised to zero, so that the network starts as an image ViT.
        recomputes_blocks: Whether training keeps no activations inside blocks (gradient checkpointing).
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    patch_size: int = 16
    image_size: int = 224
    num_frames: int = 8
    drop_path: float = 0.1
    space_interpolation: SpaceInterpolation = "nearest"
    time_interpolation: TimeInterpolation = "nearest"
    stem: Stem = "patches"
    init_std: float = 0.02
    time_std: float = 0.0
    is_temporal_zero: bool = True
    recomputes_blocks: bool = False

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ConfigError(f"num_heads {self.num_heads} does not divide width {self.width}; use a divisor")
        if self.image_size % self.patch_size:
            raise ConfigError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; use at least 0 and below 1")


# "tiny" is for a laptop: as wide as DeiT's, with 4 blocks instead of 12 and half the side.
SIZES: Mapping[str, TimeSformerConfig] = {
    "tiny": TimeSformerConfig(width=192, depth=4, num_heads=3, image_size=112),
    "small": TimeSformerConfig(width=384, num_heads=6),
    "base": TimeSformerConfig(),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Tokens after one layer.

    Attributes:
        cls: float [B, C].
        patches: float [B, t, h, w, C].
    """

    cls: Tensor
    patches: Tensor


def resize_space(positions: Tensor, height: int, width: int, *, mode: SpaceInterpolation) -> tuple[Tensor, Tensor]:
    """The class token's position [1, 1, C] and those of a grid [1, height, width, C].

    Args:
        positions: float [1, 1 + g * g, C]: the class token's, then a square grid row by row.
        height: Number of rows of the result.
        width: Number of columns of the result.
        mode: Interpolation filter; not used if the grid already has that size.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    grid = torch.unflatten(positions[:, 1:], 1, (side, side))
    if (height, width) != (side, side):
        channels_first = grid.permute(0, 3, 1, 2)
        grid = functional.interpolate(channels_first, size=(height, width), mode=mode).permute(0, 2, 3, 1)
    return positions[:, :1], grid


def resize_time(positions: Tensor, num_frames: int, *, mode: TimeInterpolation) -> Tensor:
    """Time positions [1, T, C] resized to [1, num_frames, C]; the same tensor if T is ``num_frames``."""
    if positions.shape[1] == num_frames:
        return positions
    return functional.interpolate(positions.transpose(1, 2), size=num_frames, mode=mode).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: [M, N, C] to [M, N, C]."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention among the N tokens of each row."""
        q, k, v = torch.unflatten(self.qkv(x), -1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Linear, GELU, linear: [..., C] to [..., C]."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to each token."""
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


class DividedBlock(nn.Module):
    """Attention over time at each place, attention over space in each frame, then an MLP, each with a residual."""

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads=config.num_heads)
        self.temporal_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.temporal_attn = Attention(width, num_heads=config.num_heads)
        self.temporal_fc = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden=config.mlp_ratio * width)

    def forward(self, cls: Tensor, patches: Tensor, kept: KeptRows | None) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            cls: float [B, 1, C].
            patches: float [B, T, N, C].
            kept: Factors of stochastic depth; ``None`` keeps all rows.

        Returns:
            Both, with the same shapes. The class token takes no part in temporal attention; every frame attends to it,
            and the updates from all frames are averaged.
        """
        batch, num_frames, num_places, _ = patches.shape
        in_time, in_space, after_mlp = kept or (None, None, None)

        places = patches.transpose(1, 2).flatten(0, 1)
        change = _scale(self.temporal_attn(self.temporal_norm1(places)), in_time)
        patches = patches + torch.unflatten(self.temporal_fc(change), 0, (batch, num_places)).transpose(1, 2)

        frames = torch.cat([cls.unsqueeze(1).expand(-1, num_frames, -1, -1), patches], dim=2).flatten(0, 1)
        change = torch.unflatten(_scale(self.attn(self.norm1(frames)), in_space), 0, (batch, num_frames))
        cls = cls + change[:, :, 0].mean(dim=1, keepdim=True)
        patches = patches + change[:, :, 1:]

        tokens = torch.cat([cls, patches.flatten(1, 2)], dim=1)
        tokens = tokens + _scale(self.mlp(self.norm2(tokens)), after_mlp)
        return tokens[:, :1], torch.unflatten(tokens[:, 1:], 1, (num_frames, num_places))


def _scale(residual: Tensor, factors: Tensor | None) -> Tensor:
    return residual if factors is None else residual * factors


DIFFERENCE_SCALE = 3.0
"""Factor of the differences of neighbouring frames, which are smaller than pixels."""


def with_differences(clip: Tensor) -> Tensor:
    """Frames followed by three times the signed difference to the next frame: [B, T, 3, H, W] to [B, T, 6, H, W].

    The last frame repeats the difference before it, so that each frame tells in which direction the picture moves; a
    single frame has none, zeros.
    """
    differences = clip.diff(dim=1)
    last = differences[:, -1:] if clip.shape[1] > 1 else torch.zeros_like(clip)
    return torch.cat([clip, DIFFERENCE_SCALE * torch.cat([differences, last], dim=1)], dim=2)


class PatchEmbed(nn.Module):
    """A linear embedding of square patches: [B, T, 3, H, W] to [B, T, H / p, W / p, C]."""

    def __init__(self, width: int, *, patch_size: int, stem: Stem = "patches") -> None:
        super().__init__()
        self.has_differences = stem == "difference"
        self.proj = nn.Conv2d(6 if self.has_differences else 3, width, patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        """Embed each frame separately, with its difference to the next one if the stem has it."""
        if self.has_differences:
            clip = with_differences(clip)
        return torch.unflatten(self.proj(clip.flatten(0, 1)).permute(0, 2, 3, 1), 0, clip.shape[:2])


class TimeSformer(nn.Module):
    """The network; ViT-B/16 for 8 frames has 121,258,752 parameters.

    Args:
        config: Sizes of the network.

    Attributes:
        layers: Names that :meth:`forward_layers` accepts: ``blocks.0`` …, ``norm``.
    """

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.width, config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.time_embed = nn.Parameter(torch.zeros(1, config.num_frames, width))
        self.patch_embed = PatchEmbed(width, patch_size=config.patch_size, stem=config.stem)
        self.blocks = nn.ModuleList(DividedBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.layers = (*(f"blocks.{index}" for index in range(config.depth)), "norm")
        self._initialise()

    def _initialise(self) -> None:
        """Initialise with a truncated normal, zero biases and, as published, time positions at zero."""
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DividedBlock) and self.config.is_temporal_zero:
                nn.init.zeros_(module.temporal_fc.weight)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.config.time_std:
            nn.init.normal_(self.time_embed, std=self.config.time_std)

    def forward(self, clip: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The class token after the last normalisation, float [B, C]: SVT's feature.

        Args:
            clip: float [B, T, 3, H, W]; see :meth:`forward_layers`.
            generator: Random generator of stochastic depth.
        """
        return self.forward_layers(clip, ["norm"], generator=generator)["norm"].cls

    def forward_layers(
        self, clip: Tensor, names: Collection[str], *, generator: torch.Generator | None = None
    ) -> dict[str, Tokens]:
        """Run the network up to the last of ``names``.

        Args:
            clip: float [B, T, 3, H, W], normalised; H and W are multiples of the patch size, T is any.
            names: Some of :attr:`layers`.
            generator: Draws which rows stochastic depth keeps while training, on its own device; ``None`` is torch's
                global one of the clip's device, so that a GPU does not wait.

        Returns:
            Tokens of each of ``names``, h = H / patch size and w = W / patch size.

        Raises:
            ConfigError: A side is not a multiple of the patch size.
        """
        cls, patches, grid = self._embed(clip)
        outputs: dict[str, Tokens] = {}
        for index, kept in enumerate(self._draw_kept_rows(patches, generator)):
            if len(outputs) == len(set(names)):
                return outputs
            cls, patches = self._run_block(index, cls, patches, kept)
            if f"blocks.{index}" in names:
                outputs[f"blocks.{index}"] = Tokens(cls=cls[:, 0], patches=torch.unflatten(patches, 2, grid))
        if "norm" in names:
            outputs["norm"] = Tokens(cls=self.norm(cls)[:, 0], patches=torch.unflatten(self.norm(patches), 2, grid))
        return outputs

    def _embed(self, clip: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Class token [B, 1, C] and patches [B, T, h * w, C], with their positions, and (h, w)."""
        config = self.config
        if any(side % config.patch_size for side in clip.shape[-2:]):
            raise ConfigError(
                f"TimeSformer takes sides that are multiples of {config.patch_size}, not {tuple(clip.shape[-2:])}; "
                "crop or resize the clips"
            )
        patches: Tensor = self.patch_embed(clip)
        _, num_frames, height, width, _ = patches.shape
        cls_position, grid = resize_space(self.pos_embed, height, width, mode=config.space_interpolation)
        time = resize_time(self.time_embed, num_frames, mode=config.time_interpolation)
        patches = patches + grid.unsqueeze(1) + time[:, :, None, None]
        cls = (self.cls_token + cls_position).expand(len(clip), -1, -1)
        return cls, patches.flatten(2, 3), (height, width)

    def _draw_kept_rows(self, patches: Tensor, generator: torch.Generator | None) -> list[KeptRows | None]:
        """Draw the factors of stochastic depth for each block, in the order time, space, MLP."""
        batch, num_frames, num_places, _ = patches.shape
        counts = (batch * num_places, batch * num_frames, batch)

        def draw(rate: float, rows: int) -> Tensor:
            device = patches.device if generator is None else generator.device
            is_kept = torch.rand((rows, 1, 1), generator=generator, device=device) >= rate
            return is_kept.to(device=patches.device, dtype=patches.dtype) / (1 - rate)

        last = max(self.config.depth - 1, 1)
        rates = [self.config.drop_path * index / last for index in range(self.config.depth)]
        return [
            (draw(rate, counts[0]), draw(rate, counts[1]), draw(rate, counts[2])) if self.training and rate else None
            for rate in rates
        ]

    def _run_block(self, index: int, cls: Tensor, patches: Tensor, kept: KeptRows | None) -> tuple[Tensor, Tensor]:
        block: Callable[[Tensor, Tensor, KeptRows | None], tuple[Tensor, Tensor]] = self.blocks[index]
        if not (self.config.recomputes_blocks and torch.is_grad_enabled()):
            return block(cls, patches, kept)
        # A block draws nothing, so no generator state has to be kept.
        again: tuple[Tensor, Tensor] = checkpoint(
            block, cls, patches, kept, use_reentrant=False, preserve_rng_state=False
        )
        return again


def config_of(size: str, state: Mapping[str, Tensor]) -> TimeSformerConfig:
    """The configuration ``size`` with the stem and the grids of positions that ``state`` holds.

    Args:
        size: One of :data:`SIZES`.
        state: Tensors under the network's names; if a grid is absent or has another form, that of the size is kept, and
            loading reports the problem.
    """
    config = SIZES[size]
    time, space, stem = (state.get(name) for name in ("time_embed", "pos_embed", "patch_embed.proj.weight"))
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 6:
        config = dataclasses.replace(config, stem="difference")
    if time is not None and time.ndim == 3 and time.shape[1]:
        config = dataclasses.replace(config, num_frames=time.shape[1])
    if space is not None and space.ndim == 3:
        side = round(max(space.shape[1] - 1, 0) ** 0.5)
        if side and side * side == space.shape[1] - 1:
            config = dataclasses.replace(config, image_size=side * config.patch_size)
    return config
