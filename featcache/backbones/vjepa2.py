"""V-JEPA 2 through transformers: ``vjepa2-l``.

Layers are ``blocks.0`` to ``blocks.23`` and ``norm``, the tokens after the final normalisation. Positions are rotary,
so they exist for a grid of any size; beyond the trained grid they are extrapolated, as in the authors' code.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.layers import tap, token_grid
from featcache.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = "facebook/vjepa2-vitl-fpc64-256"
CARD = WeightsCard(
    source=f"V-JEPA 2, {REPOSITORY} on the Hugging Face hub",
    license="MIT",
    paper="arXiv:2506.09985",
    file_name="vjepa2-l.safetensors",
    input_size=256,
    interpolation="bilinear",
    num_frames=64,
    frame_stride=8,
)
CARDS = {"vjepa2-l": CARD}
PREDICTOR = ("predictor.*",)


def build(name: str, weights: str) -> Backbone:
    """Build the encoder of ViT-L; the predictor of a file is left out.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from transformers import VJEPA2Config, VJEPA2Model

    from featcache.backbones.branches import load_branch, take_branch
    from featcache.backbones.weights import hub_files, locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    stems = [name, REPOSITORY.rpartition("/")[2]]
    path = locate(weights, backbone=name, stems=stems, hub=hub_files(REPOSITORY), origin=CARD.source)
    config = VJEPA2Config()  # its defaults are ViT-L on clips of 64 frames of 256 pixels
    with seeded_init(name):
        encoder = VJEPA2Model(config).encoder
    keys = None
    if path is not None:
        state, dropped = take_branch(read_state_dict(path), prefix="encoder.", drop=PREDICTOR)
        keys = load_branch(encoder, state, source=f"weights file {path} of {name}", dropped=dropped)
    return WrappedBackbone(
        encoder,
        name=name,
        card=CARD,
        layers=[*(f"blocks.{index}" for index in range(config.num_hidden_layers)), "norm"],
        run=partial(read_layers, encoder, name=name),
        keys=keys,
    )


def read_layers(encoder: Any, pixels: "Tensor", wanted: frozenset[str], *, name: str) -> dict[str, LayerOutput]:
    """Layers of the encoder.

    Args:
        encoder: ``VJEPA2Encoder``.
        pixels: float [B, T, 3, S, S]; T even, S a multiple of 16.
        wanted: Layer names.
        name: Registry name, for messages.

    Raises:
        ConfigError: T or S has another value.
    """
    config = encoder.config
    grid = token_grid(pixels, name=name, tubelet=config.tubelet_size, patch=config.patch_size)
    if grid[1] != grid[2]:
        raise ConfigError(f"{name} takes square frames, not {tuple(pixels.shape[-2:])}; crop them to a square")
    for block in encoder.layer:
        block.attention.grid_size = grid[1]  # gives the row and column of a token's index
    blocks = [(f"blocks.{index}", _tokens_of(block)) for index, block in enumerate(encoder.layer)]
    tokens = tap(encoder.embeddings(pixels), [*blocks, ("norm", encoder.layernorm)], wanted)
    return {layer: LayerOutput(map=values.unflatten(1, grid), cls=None) for layer, values in tokens.items()}


def _tokens_of(block: Callable[["Tensor"], tuple["Tensor", ...]]) -> Callable[["Tensor"], "Tensor"]:
    def run(x: "Tensor") -> "Tensor":
        return block(x)[0]  # the second output holds the attention weights

    return run
