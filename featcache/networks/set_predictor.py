"""A transformer over the clips of a video: from features and coordinates to a summary of the set and refined clips.

Source: SCALE §3.1, Eq. 5; released sizes (:class:`featcache.networks.settings.SetPredictorSettings`).
Without positions the network ignores the order of its clips: it maps sets to sets.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.networks.settings import NUM_NUMBERS, SetPredictorSettings


class SetOutput(NamedTuple):
    """Output of the set predictor.

    Attributes:
        summary: float [B, W], the CLS token, which summarises the set.
        clips: float [B, K, W], the refined clip tokens, which depend on all clips of the set.
    """

    summary: Tensor
    clips: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with biases; dropout on its weights and on its output.

    Axes before those of the batch belong to networks that run as one, see :mod:`featcache.evaluation.stack`.
    """

    def __init__(self, width: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, visible: Tensor | None) -> Tensor:
        """Float [..., B, N, W] to the same shape; ``visible`` bool [..., B, 1, 1, N] marks what may be attended to."""
        qkv = self.qkv(tokens)
        qkv = qkv.view(*tokens.shape[:-1], 3, self.num_heads, tokens.shape[-1] // self.num_heads)
        query, key, value = (part.transpose(-3, -2) for part in qkv.unbind(-3))
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0
        )
        output = self.out(mixed.transpose(-3, -2).reshape(tokens.shape))
        return functional.dropout(output, self.dropout, training=self.training)


class Block(nn.Module):
    """A pre-norm block: attention and an MLP with GELU, each added to its input; no stochastic depth."""

    def __init__(self, settings: SetPredictorSettings) -> None:
        super().__init__()
        hidden = int(settings.width * settings.mlp_ratio)
        self.norm1 = nn.LayerNorm(settings.width)
        self.attention = Attention(settings.width, num_heads=settings.num_heads, dropout=settings.dropout)
        self.norm2 = nn.LayerNorm(settings.width)
        self.mlp = nn.Sequential(
            nn.Linear(settings.width, hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.width),
            nn.Dropout(settings.dropout),
        )

    def forward(self, tokens: Tensor, visible: Tensor | None) -> Tensor:
        """Float [B, N, W] to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens), visible)
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class SetPredictor(nn.Module):
    """The set predictor: projected clips plus positions, a CLS token, pre-norm blocks, a final norm.

    Attributes:
        settings: Shape of the network.
        width_in: Number of channels D of a clip.
    """

    def __init__(self, settings: SetPredictorSettings, *, width_in: int) -> None:
        super().__init__()
        self.settings = settings
        self.width_in = width_in
        self.project = nn.Linear(width_in, settings.width)
        self.position = nn.Sequential(
            nn.Linear(NUM_NUMBERS[settings.position], settings.position_hidden),
            nn.ReLU(),
            nn.Linear(settings.position_hidden, settings.width),
        )
        self.cls_token = nn.Parameter(torch.zeros(settings.width))
        self.mask_token = nn.Parameter(torch.zeros(settings.width))
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self, features: Tensor, positions: Tensor, *, masked: Tensor | None = None, present: Tensor | None = None
    ) -> SetOutput:
        """Summarise sets of clips.

        Args:
            features: Floating [B, K, D], vectors of clips as stored.
            positions: float32 [B, K, 6 or 7], as :func:`featcache.data.positions.set_positions` gives them.
            masked: bool [B, K]: clips whose vector is hidden; the network sees only their position.
            present: bool [B, K]: ``False`` is padding, to which no token attends. ``None``: there is no padding.

        Raises:
            ConfigError: Vectors or positions have another width than those the predictor was made for.
        """
        self._check_widths(features, positions)
        clips = self.project(features.to(self.project.weight.dtype))
        if masked is not None:
            clips = torch.where(masked[..., None], self.mask_token.to(clips.dtype), clips)
        with torch.autocast(clips.device.type, enabled=False):  # bfloat16 would not tell 120.0 s of 120 s from 119.8 s
            clips = clips + self.position(positions.to(self.project.weight.dtype))
        cls_token = self.cls_token.to(clips.dtype)[..., None, None, :].expand(*clips.shape[:-2], 1, -1)
        tokens = torch.cat([cls_token, clips], dim=-2)
        visible = None
        if present is not None:  # the CLS token is always present
            visible = functional.pad(present, (1, 0), value=True)[..., None, None, :]
        for block in self.blocks:
            tokens = block(tokens, visible)
        tokens = self.norm(tokens)
        return SetOutput(summary=tokens[..., 0, :], clips=tokens[..., 1:, :])

    def _check_widths(self, features: Tensor, positions: Tensor) -> None:
        if features.shape[-1] != self.width_in:
            raise ConfigError(
                f"these features have {features.shape[-1]} channels and the predictor was made for {self.width_in}; "
                "choose a feature of that width, or train another predictor"
            )
        if positions.shape[-1] != NUM_NUMBERS[self.settings.position]:
            raise ConfigError(
                f"these positions have {positions.shape[-1]} numbers and the predictor's form {self.settings.position} "
                f"has {NUM_NUMBERS[self.settings.position]}; use the form it was trained with"
            )
