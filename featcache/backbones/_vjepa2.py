"""V-JEPA 2's encoder behind the protocol; imported when it is built.

Layers are ``blocks.0`` to ``blocks.23`` and ``norm``, the tokens after the final normalisation. Positions are rotations
by the place of a token, so a grid of any size has them; beyond the trained one they are extrapolated,
as in the authors' code.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from featcache.backbones.base import LayerOutput
from featcache.backbones.branches import load_branch, take_branch
from featcache.backbones.vjepa2 import CARD, REPOSITORY
from featcache.backbones.weights import locate, read_state_dict, seeded_init
from featcache.backbones.wrapped import VideoBackbone, hub_files, tap, token_grid
from featcache.errors import ConfigError

PREDICTOR = ("predictor.*",)


def build(name: str, weights: str) -> VideoBackbone:
    """Build the encoder of ViT-L; the predictor of a file is left out.

    Raises:
        WeightsError: The weights are not at hand or do not fit.
    """
    stems = [name, REPOSITORY.rpartition("/")[2]]
    path = locate(weights, backbone=name, stems=stems, hub=hub_files(REPOSITORY), origin=CARD.source)
    config = VJEPA2Config()  # its defaults are ViT-L on clips of 64 frames of 256 pixels
    with seeded_init(name):
        encoder = VJEPA2Model(config).encoder
    keys = None
    if path is not None:
        state, dropped = take_branch(read_state_dict(path), prefix="encoder.", drop=PREDICTOR)
        keys = load_branch(encoder, state, source=f"weights file {path} of {name}", dropped=dropped)
    return VideoBackbone(
        encoder,
        name=name,
        card=CARD,
        layers=[*(f"blocks.{index}" for index in range(config.num_hidden_layers)), "norm"],
        run=partial(read_layers, encoder, name=name),
        keys=keys,
    )


def read_layers(encoder: Any, pixels: Tensor, wanted: frozenset[str], *, name: str) -> dict[str, LayerOutput]:
    """Layers of the encoder.

    Args:
        encoder: ``VJEPA2Encoder``.
        pixels: float [B, T, 3, S, S]; T even, S a multiple of 16.
        wanted: Layer names.
        name: Registry name, for messages.

    Raises:
        ConfigError: Another T or S.
    """
    config = encoder.config
    grid = token_grid(pixels, name=name, tubelet=config.tubelet_size, patch=config.patch_size)
    if grid[1] != grid[2]:
        raise ConfigError(f"{name} takes square frames, not {tuple(pixels.shape[-2:])}; crop them to a square")
    for block in encoder.layer:
        block.attention.grid_size = grid[1]  # rows and columns of a token are told from its index by this number
    blocks = [(f"blocks.{index}", _tokens_of(block)) for index, block in enumerate(encoder.layer)]
    tokens = tap(encoder.embeddings(pixels), [*blocks, ("norm", encoder.layernorm)], wanted)
    return {layer: LayerOutput(map=values.unflatten(1, grid), cls=None) for layer, values in tokens.items()}


def _tokens_of(block: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        return block(x)[0]  # beside them lie the attention weights

    return run
