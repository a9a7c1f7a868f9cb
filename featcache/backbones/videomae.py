"""VideoMAE through transformers: ``videomae-b``, ``videomae-l``, ``videomae-b-k400``, ``videomae-b-ssv2``.

Layers are ``blocks.0`` to ``blocks.N-1``, and at the end

* ``norm`` for a pre-trained encoder: the tokens after the final normalisation. SCALE's feature is their mean.
* ``fc_norm`` for a fine-tuned one, which has no final normalisation: the map is that of the last block, and the vector
  (``--output cls``) is SCALE's feature, the normalised mean of the tokens, which the classifier reads.

A file may have the names of transformers, of a whole pre-training model (its decoder is left out), or of the authors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.layers import tap, token_grid

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import VideoMAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One published checkpoint.

    Attributes:
        repository: Repository on the hub.
        frame_stride: Distance between frames in its training.
        width: Number of channels of a token.
        num_blocks: Number of transformer blocks.
        num_heads: Number of attention heads.
        num_classes: Number of columns of the classifier; 0 for a pre-trained encoder.
    """

    repository: str
    frame_stride: int = 4
    width: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    num_classes: int = 0


VARIANTS = {
    "videomae-b": Variant(
        repository="MCG-NJU/videomae-base",
    ),
    "videomae-l": Variant(
        repository="MCG-NJU/videomae-large",
        width=1024,
        num_blocks=24,
        num_heads=16,
    ),
    "videomae-b-k400": Variant(
        repository="MCG-NJU/videomae-base-finetuned-kinetics",
        num_classes=400,
    ),
    "videomae-b-ssv2": Variant(
        repository="MCG-NJU/videomae-base-finetuned-ssv2",
        frame_stride=2,
        num_classes=174,
    ),
}


def _card_of(name: str) -> WeightsCard:
    """The card of one variant."""
    variant = VARIANTS[name]
    return WeightsCard(
        source=f"VideoMAE, {variant.repository} on the Hugging Face hub",
        license="CC-BY-NC-4.0",
        paper="arXiv:2203.12602",
        file_name=f"{name}.safetensors",
        crop_fraction=1.0,
        interpolation="bilinear",
        num_frames=16,
        frame_stride=variant.frame_stride,
    )


CARDS = {name: _card_of(name) for name in VARIANTS}

DECODER = ("decoder.*", "encoder_to_decoder.*", "mask_token")
_HEAD = ("fc_norm.", "classifier.")
_AUTHORS_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_EARLIER_NAMES = {"attention.q_bias": "attention.query.bias", "attention.v_bias": "attention.value.bias"}
_AUTHORS_NAMES = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "norm.": "layernorm.",
    "head.": "classifier.",
}


def build(name: str, weights: str) -> Backbone:
    """Build a variant.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from transformers import VideoMAEForVideoClassification, VideoMAEModel

    from featcache.backbones.branches import load_branch
    from featcache.backbones.weights import hub_class_names, hub_files, locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    variant = VARIANTS[name]
    repository = variant.repository
    stems = [name, repository.rpartition("/")[2]]
    path = locate(weights, backbone=name, stems=stems, hub=hub_files(repository), origin=f"{repository} on the hub")
    network_class: Any = VideoMAEForVideoClassification if variant.num_classes else VideoMAEModel
    with seeded_init(name):
        network = network_class(config_of(variant))
    keys, classes = None, None
    if path is not None:
        state, dropped = in_library_names(read_state_dict(path))
        if variant.num_classes:
            state = {key if key.startswith(_HEAD) else f"videomae.{key}": tensor for key, tensor in state.items()}
            classes = hub_class_names(path, repository=repository, num_classes=variant.num_classes)
        keys = load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)
    last = "fc_norm" if variant.num_classes else "norm"
    return WrappedBackbone(
        network,
        name=name,
        card=CARDS[name],
        layers=[*(f"blocks.{index}" for index in range(variant.num_blocks)), last],
        run=partial(read_layers, network, name=name),
        keys=keys,
        classes=classes,
        logits=partial(read_logits, network, name=name),
        no_classes="no classifier with class names; choose a fine-tuned backbone, with its checkpoint's config.json "
        "beside the weights",
    )


def config_of(variant: Variant) -> "VideoMAEConfig":
    """The configuration of a variant for transformers."""
    from transformers import VideoMAEConfig

    config = VideoMAEConfig(
        hidden_size=variant.width,
        intermediate_size=4 * variant.width,
        num_hidden_layers=variant.num_blocks,
        num_attention_heads=variant.num_heads,
        use_mean_pooling=variant.num_classes > 0,
    )
    if variant.num_classes:
        config.num_labels = variant.num_classes
    return config


def read_layers(network: Any, pixels: "Tensor", wanted: frozenset[str], *, name: str) -> dict[str, LayerOutput]:
    """Layers of a pre-trained encoder or of a fine-tuned classifier.

    Args:
        network: ``VideoMAEModel`` or ``VideoMAEForVideoClassification``.
        pixels: float [B, T, 3, S, S]; T even, S a multiple of 16.
        wanted: Layer names.
        name: Registry name, for messages.

    Raises:
        ConfigError: T or S has another value.
    """
    from torch import nn

    from featcache.networks.positions import resize_positions

    head: Any = network if hasattr(network, "classifier") else None
    encoder: Any = network if head is None else head.videomae
    config: Any = encoder.config
    grid = token_grid(pixels, name=name, tubelet=config.tubelet_size, patch=config.patch_size)
    side = config.image_size // config.patch_size
    positions = resize_positions(
        encoder.embeddings.position_embeddings[0],
        native=(config.num_frames // config.tubelet_size, side, side),
        grid=grid,
    )
    patches = encoder.embeddings.patch_embeddings.projection(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)
    blocks = [(f"blocks.{index}", block) for index, block in enumerate(encoder.encoder.layer)]
    last = ("norm", encoder.layernorm) if head is None else ("fc_norm", nn.Identity())
    tokens = tap(patches + positions.to(patches), [*blocks, last], wanted)
    vectors = {"fc_norm": head.fc_norm(tokens["fc_norm"].mean(1))} if head is not None and "fc_norm" in tokens else {}
    return {
        layer: LayerOutput(map=values.unflatten(1, grid), cls=vectors.get(layer)) for layer, values in tokens.items()
    }


def read_logits(network: Any, pixels: "Tensor", *, name: str) -> "Tensor":
    """Logits [B, num_classes] of a fine-tuned classifier; pixels as for :func:`read_layers`."""
    vector = read_layers(network, pixels, frozenset({"fc_norm"}), name=name)["fc_norm"].cls
    logits: Tensor = network.classifier(vector)
    return logits


def in_library_names(
    state: Mapping[str, "Tensor"],
) -> tuple[dict[str, "Tensor"], tuple[str, ...]]:
    """Tensors under the names of ``VideoMAEModel`` (and ``fc_norm``, ``classifier``), and the dropped ones (decoder).

    Args:
        state: As saved by transformers (today, or with the separate biases of earlier versions), or by the authors.
    """
    from featcache.backbones.branches import take_branch

    if any(name.endswith("attn.qkv.weight") for name in state):
        taken, dropped = take_branch(state, prefix="encoder.", drop=DECODER)
        return {ours: part for name, tensor in taken.items() for ours, part in _from_authors(name, tensor)}, dropped
    taken, dropped = take_branch(state, prefix="videomae.", drop=DECODER)
    return {_from_earlier(name): tensor for name, tensor in taken.items()}, dropped


def _from_earlier(name: str) -> str:
    """Present name of a tensor in a file of an earlier version of the library."""
    for theirs, ours in _EARLIER_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _from_authors(name: str, tensor: "Tensor") -> list[tuple[str, "Tensor"]]:
    """One tensor of the authors' file, in which query, key and value share one matrix and keys have no bias."""
    if name.startswith("blocks."):
        _, index, rest = name.split(".", 2)
        block = f"encoder.layer.{index}."
        if rest == "attn.qkv.weight":
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            return [(f"{block}attention.attention.{part}.weight", rows.contiguous()) for part, rows in parts]
        for theirs, ours in _AUTHORS_BLOCK_NAMES.items():
            if rest == theirs or rest.startswith(f"{theirs}."):
                return [(block + ours + rest.removeprefix(theirs), tensor)]
    for theirs, ours in _AUTHORS_NAMES.items():
        if name.startswith(theirs):
            return [(ours + name.removeprefix(theirs), tensor)]
    return [(name, tensor)]
