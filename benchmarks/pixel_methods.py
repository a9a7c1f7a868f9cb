"""Training steps of methods that read pixels, and a clip encoder, with which SCALE on a store is compared.

All use a ViT-B over clips of 16 frames at 224: tubelets of 2 x 16 x 16, 1,568 tokens. Weights are random, which cost as
much as trained ones; pixels are already in memory, so neither decoding nor augmentation is counted.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

NUM_FRAMES, SIZE, TUBELET, PATCH = 16, 224, 2, 16
WIDTH, DEPTH, HEADS = 768, 12, 12
NUM_TOKENS = (NUM_FRAMES // TUBELET) * (SIZE // PATCH) ** 2
VIDEOMAE_MASK = 0.9
MOCO_HIDDEN, MOCO_OUT = 4096, 256
MOCO_TEMPERATURE, MOCO_MOMENTUM = 0.2, 0.99
SPARSE_SHARE = 0.1
"""Share of tokens that the sparse form of MoCo-v3 keeps."""

Step = Callable[[], None]


def videomae_step(batch: int, *, device: str, bfloat16: bool) -> Step:
    """VideoMAE: 90 % of the tokens masked, their pixels reconstructed (transformers' implementation)."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    model = VideoMAEForPreTraining(VideoMAEConfig()).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95))
    pixels = torch.randn(batch, NUM_FRAMES, 3, SIZE, SIZE, device=device)
    masked = torch.zeros(batch, NUM_TOKENS, dtype=torch.bool, device=device)
    num_masked = int(VIDEOMAE_MASK * NUM_TOKENS)

    def step() -> None:
        masked.zero_().scatter_(1, torch.rand(batch, NUM_TOKENS, device=device).topk(num_masked).indices, True)
        with torch.autocast(_kind(device), torch.bfloat16, enabled=bfloat16):
            loss = model(pixels, bool_masked_pos=masked).loss
        _update(loss, optimiser)

    return step


def moco_step(batch: int, *, device: str, bfloat16: bool, share: float) -> Step:
    """MoCo-v3 on clips: two views, a momentum encoder, InfoNCE over the batch in both directions.

    Args:
        batch: Number of videos, at least 2 (BatchNorm).
        device: Device of the step.
        bfloat16: Whether the forward pass is in bfloat16.
        share: Share of tokens that each view keeps; 1 is the dense form.
    """
    encoder = MocoEncoder().to(device)
    predictor = _mlp([MOCO_OUT, MOCO_HIDDEN, MOCO_OUT]).to(device)
    momentum = copy.deepcopy(encoder).requires_grad_(False)
    trained = [*encoder.parameters(), *predictor.parameters()]
    optimiser = torch.optim.AdamW([parameter for parameter in trained if parameter.requires_grad], lr=1.5e-4)
    views = [torch.randn(batch, 3, NUM_FRAMES, SIZE, SIZE, device=device) for _ in range(2)]
    num_kept = max(1, round(share * NUM_TOKENS))

    def kept() -> Tensor | None:
        if num_kept == NUM_TOKENS:
            return None
        return torch.rand(batch, NUM_TOKENS, device=device).topk(num_kept).indices

    def step() -> None:
        places = [kept(), kept()]
        with torch.autocast(_kind(device), torch.bfloat16, enabled=bfloat16):
            queries = [predictor(encoder(view, place)) for view, place in zip(views, places, strict=True)]
            with torch.no_grad():
                for mine, theirs in zip(momentum.parameters(), encoder.parameters(), strict=True):
                    mine.lerp_(theirs, 1 - MOCO_MOMENTUM)
                keys = [momentum(view, place) for view, place in zip(views, places, strict=True)]
            loss = _info_nce(queries[0], keys[1]) + _info_nce(queries[1], keys[0])
        _update(loss, optimiser)

    return step


class MocoEncoder(nn.Module):
    """A ViT-B over tubelets with MoCo-v3's projection head and, as in MoCo-v3, a frozen patch embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, WIDTH, (TUBELET, PATCH, PATCH), (TUBELET, PATCH, PATCH)).requires_grad_(False)
        self.position = nn.Parameter(torch.randn(1, NUM_TOKENS, WIDTH) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, qkv_bias=True) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = _mlp([WIDTH, MOCO_HIDDEN, MOCO_HIDDEN, MOCO_OUT])

    def forward(self, pixels: Tensor, kept: Tensor | None) -> Tensor:
        """From pixels float [B, 3, T, H, W] and indices of tokens to keep int64 [B, n] (``None``: all) to [B, 256]."""
        tokens = self.embed(pixels).flatten(2).transpose(1, 2) + self.position
        if kept is not None:
            tokens = tokens.gather(1, kept[..., None].expand(-1, -1, WIDTH))
        projected: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return projected


def clip_encoder(*, device: str, size: int = SIZE) -> nn.Module:
    """VideoMAE's frozen ViT-B encoder, from clips float [B, 16, 3, size, size] to tokens."""
    from transformers import VideoMAEConfig, VideoMAEModel

    encoder: Any = VideoMAEModel(VideoMAEConfig(image_size=size))
    frozen: nn.Module = encoder.to(device).eval().requires_grad_(False)
    return frozen


def _mlp(widths: list[int]) -> nn.Sequential:
    """MoCo-v3's head: linear layers without biases, BatchNorm after each (the last not affine), ReLU between."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        is_last = number == len(widths) - 2
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=not is_last)]
        layers += [] if is_last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    logits = functional.normalize(queries, dim=1) @ functional.normalize(keys, dim=1).T / MOCO_TEMPERATURE
    own = torch.arange(len(queries), device=queries.device)
    return functional.cross_entropy(logits, own) * 2 * MOCO_TEMPERATURE


def _update(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def _kind(device: str) -> str:
    return torch.device(device).type
