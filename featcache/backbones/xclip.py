"""X-CLIP's vision side through transformers: ``xclip-b16``.

A vision transformer for every frame, whose blocks pass a message between the frames' class tokens (cross-frame
attention), and a small transformer over the frames' vectors (multi-frame integration). Layers are

* ``blocks.0`` to ``blocks.11``: the patch tokens of every frame, [t, 14, 14, 768];
* ``post``: the patch tokens after the final normalisation;
* ``video``: the patch tokens projected into the space shared with text, 512 channels. Its vector (``--output cls``) is
  the video's embedding after multi-frame integration, before it is scaled to unit length.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.layers import tap, token_grid

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import XCLIPConfig, XCLIPVisionConfig

REPOSITORY = "microsoft/xclip-base-patch16"
CARD = WeightsCard(
    source=f"X-CLIP, {REPOSITORY} on the Hugging Face hub",
    license="MIT",
    paper="arXiv:2208.02816",
    file_name="xclip-b16.safetensors",
    interpolation="bilinear",
    num_frames=8,
    frame_stride=32,
)
CARDS = {"xclip-b16": CARD}
VISION_SIDE = ("vision_model", "visual_projection", "mit")
TEXT_SIDE = ("text_model.*", "text_projection.*", "prompts_*", "logit_scale")
# Buffers that earlier versions of the library saved: 0, 1, 2, …
COUNTERS = ("vision_model.embeddings.position_ids",)


def build(name: str, weights: str) -> Backbone:
    """Build the vision side; the text side of a file is left out.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from transformers import XCLIPVisionConfig

    from featcache.backbones.branches import load_branch, take_branch
    from featcache.backbones.weights import hub_files, locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    stems = [name, REPOSITORY.rpartition("/")[2]]
    path = locate(weights, backbone=name, stems=stems, hub=hub_files(REPOSITORY), origin=CARD.source)
    config = XCLIPVisionConfig(patch_size=16)
    with seeded_init(name):
        network = vision_side(config)
    keys = None
    if path is not None:
        state, dropped = take_branch(read_state_dict(path), prefix="", drop=(*TEXT_SIDE, *COUNTERS))
        keys = load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)
    return WrappedBackbone(
        network,
        name=name,
        card=CARD,
        layers=[*(f"blocks.{index}" for index in range(config.num_hidden_layers)), "post", "video"],
        run=partial(read_layers, network, name=name),
        keys=keys,
    )


def vision_side(config: "XCLIPVisionConfig") -> "nn.ModuleDict":
    """Transformer of the frames, projection and multi-frame integration, under the names of ``XCLIPModel``."""
    from torch import nn
    from transformers import XCLIPConfig, XCLIPModel

    # transformers initialises them as parts of the whole model, so the whole is built, with one block of text.
    whole = XCLIPModel(XCLIPConfig(vision_config=config.to_dict(), text_config={"num_hidden_layers": 1}))
    return nn.ModuleDict({part: getattr(whole, part) for part in VISION_SIDE})


def whole_config() -> "XCLIPConfig":
    """Configuration of the published model, both sides."""
    from transformers import XCLIPConfig, XCLIPVisionConfig

    return XCLIPConfig(vision_config=XCLIPVisionConfig(patch_size=16).to_dict())


def read_layers(network: Any, pixels: "Tensor", wanted: frozenset[str], *, name: str) -> dict[str, LayerOutput]:
    """Layers of the vision side.

    Args:
        network: Result of :func:`vision_side`.
        pixels: float [B, T, 3, S, S]; S a multiple of 16.
        wanted: Layer names.
        name: Registry name, for messages.

    Raises:
        ConfigError: S has another value.
    """
    vision, project = network["vision_model"], network["visual_projection"]
    grid = token_grid(pixels, name=name, tubelet=1, patch=vision.config.patch_size)
    for block in vision.encoder.layers:
        block.num_frames = grid[0]  # with which a block separates the frames of one clip from those of the next
    blocks = [
        (f"blocks.{index}", partial(block, attention_mask=None)) for index, block in enumerate(vision.encoder.layers)
    ]
    frames = vision.embeddings(pixels.flatten(0, 1), interpolate_pos_encoding=True)
    steps = [*blocks, ("post", vision.post_layernorm), ("video", project)]
    tokens = tap(vision.pre_layernorm(frames), steps, wanted)
    return {
        layer: LayerOutput(
            map=values[:, 1:].unflatten(1, grid[1:]).unflatten(0, (-1, grid[0])),
            cls=integrate(network["mit"], values[:, 0].unflatten(0, (-1, grid[0]))) if layer == "video" else None,
        )
        for layer, values in tokens.items()
    }


def integrate(mit: Any, frames: "Tensor") -> "Tensor":
    """Multi-frame integration: from vectors of frames [B, T, 512] to the video's vector [B, 512]."""
    from featcache.networks.positions import resize_positions

    table: Tensor = mit.position_embedding[0]
    positions = resize_positions(table, native=(len(table), 1, 1), grid=(frames.shape[1], 1, 1))
    mixed: Tensor = mit.encoder(inputs_embeds=frames + positions).last_hidden_state
    return (mixed + frames).mean(dim=1)
