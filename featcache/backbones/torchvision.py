"""torchvision's video networks: ``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d``, ``mvit_v2_s``, ``swin3d_t``.

Layers have torchvision's module names: ``stem`` and ``layer1`` to ``layer4`` of the ResNets, the last module of each
stage of S3D (``features.15`` is the last), the stages of Video Swin before their tokens are merged
(``features.0, .2, .4, .6``) and ``norm``, ``blocks.0`` to ``blocks.15`` and ``norm`` of MViT, which has a class token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.backbones.layers import tap
from featcache.errors import ClipLengthError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_MEAN = (0.43216, 0.394666, 0.37645)
_STD = (0.22803, 0.22145, 0.216989)
_ORIGIN = "https://download.pytorch.org/models/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One network.

    Attributes:
        file_name: File name of its weights, trained on Kinetics-400.
        paper: Paper that describes it.
        input_size: Input side in pixels.
        mean: RGB means.
        std: RGB standard deviations.
        num_frames: Number of frames per clip.
        frame_stride: Distance between frames in videos of 30 frames per second.
    """

    file_name: str
    paper: str
    input_size: int = 224
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    num_frames: int = 16
    frame_stride: int = 2


VARIANTS = {
    "r3d_18": Variant(
        file_name="r3d_18-b3b3357e.pth",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "mc3_18": Variant(
        file_name="mc3_18-a90a0ba3.pth",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "r2plus1d_18": Variant(
        file_name="r2plus1d_18-91a641e6.pth",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "s3d": Variant(
        file_name="s3d-d76dad2f.pth",
        paper="arXiv:1712.04851",
        num_frames=128,
    ),
    "mvit_v2_s": Variant(
        file_name="mvit_v2_s-ae3be167.pth",
        paper="arXiv:2112.01526",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        frame_stride=4,
    ),
    "swin3d_t": Variant(
        file_name="swin3d_t-7615ae03.pth",
        paper="arXiv:2106.13230",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_frames=32,
    ),
}


def _card_of(name: str) -> WeightsCard:
    """The card of one network."""
    variant = VARIANTS[name]
    return WeightsCard(
        source=f"torchvision, {_ORIGIN}{variant.file_name}",
        license="BSD-3-Clause",
        paper=variant.paper,
        file_name=variant.file_name,
        input_size=variant.input_size,
        interpolation="bilinear",
        mean=variant.mean,
        std=variant.std,
        num_frames=variant.num_frames,
        frame_stride=variant.frame_stride,
    )


CARDS = {name: _card_of(name) for name in VARIANTS}

# The last module of each stage, and the first module.
S3D_STAGES = ("features.0", "features.3", "features.6", "features.12", "features.15")
SWIN_STAGES = ("features.0", "features.2", "features.4", "features.6")
# The smallest numbers of frames and pixels for S3D's pooling, and for its classifier.
S3D_MIN_FRAMES, S3D_CLASSIFIER_FRAMES, S3D_CLASSIFIER_SIZE = 5, 13, 209


def build(name: str, weights: str) -> Backbone:
    """Build a network.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    import torch
    from torchvision.models import get_model, get_model_weights

    from featcache.backbones.branches import load_branch
    from featcache.backbones.weights import locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone

    published = get_model_weights(name).DEFAULT
    file_name = Path(published.url).name
    path = locate(
        weights,
        backbone=name,
        stems=[Path(file_name).stem, name],
        packaged=Path(torch.hub.get_dir()) / "checkpoints" / file_name,
        origin=published.url,
        published=file_name,
    )
    with seeded_init(name):
        network = get_model(name)
    keys = None
    if path is not None:
        keys = load_branch(network, read_state_dict(path), source=f"weights file {path} of {name}", dropped=())
    layers, read = _READERS[name](network)
    logits = partial(_LOGITS[name], network) if name in _LOGITS else network
    return WrappedBackbone(
        network,
        name=name,
        card=CARDS[name],
        layers=layers,
        run=lambda pixels, wanted: read(_channels_first(pixels), wanted),
        keys=keys,
        classes=published.meta["categories"],
        logits=lambda pixels: logits(_channels_first(pixels)),
    )


Reader = tuple[tuple[str, ...], Callable[["Tensor", frozenset[str]], dict[str, LayerOutput]]]


def _channels_first(pixels: "Tensor") -> "Tensor":
    return pixels.transpose(1, 2).contiguous()


def _resnet(network: Any) -> Reader:
    layers = ("stem", "layer1", "layer2", "layer3", "layer4")
    steps = [(layer, network.get_submodule(layer)) for layer in layers]
    return layers, lambda x, wanted: _maps(tap(x, steps, wanted), channels_first=True)


def _s3d(network: Any) -> Reader:
    steps = _children(network, "features")

    def read(x: "Tensor", wanted: frozenset[str]) -> dict[str, LayerOutput]:
        if x.shape[2] < S3D_MIN_FRAMES:
            raise ClipLengthError(
                f"s3d takes clips of at least {S3D_MIN_FRAMES} frames, not {x.shape[2]}; set sampling.num_frames"
            )
        return _maps(tap(x, steps, wanted), channels_first=True)

    return S3D_STAGES, read


def _s3d_logits(network: Any, x: "Tensor") -> "Tensor":
    """Logits [B, 400] of clips [B, 3, T, S, S].

    Raises:
        ConfigError: The clips are too small for its pooling over 2 x 7 x 7.
    """
    if x.shape[2] < S3D_CLASSIFIER_FRAMES or min(x.shape[-2:]) < S3D_CLASSIFIER_SIZE:
        raise ConfigError(
            f"s3d classifies clips of at least {S3D_CLASSIFIER_FRAMES} frames and {S3D_CLASSIFIER_SIZE} pixels a side, "
            f"not {x.shape[2]} frames of {tuple(x.shape[-2:])}; take longer or larger clips"
        )
    logits: Tensor = network(x)
    return logits


def _swin(network: Any) -> Reader:
    steps = [("patch_embed", network.patch_embed), *_children(network, "features"), ("norm", network.norm)]
    return (*SWIN_STAGES, "norm"), lambda x, wanted: _maps(tap(x, steps, wanted), channels_first=False)


def _mvit(network: Any) -> Reader:
    blocks = [(f"blocks.{index}", _on_grid(block)) for index, block in enumerate(network.blocks)]
    steps = [*blocks, ("norm", lambda state: (network.norm(state[0]), state[1]))]

    def read(x: "Tensor", wanted: frozenset[str]) -> dict[str, LayerOutput]:
        patches = network.conv_proj(x)
        tokens = network.pos_encoding(patches.flatten(2).transpose(1, 2))  # relative positions are in the blocks
        return {
            layer: LayerOutput(map=values[:, 1:].unflatten(1, grid), cls=values[:, 0])
            for layer, (values, grid) in tap((tokens, tuple(patches.shape[2:])), steps, wanted).items()
        }

    return tuple(name for name, _ in steps), read


def _mvit_logits(network: Any, x: "Tensor") -> "Tensor":
    """Logits [B, 400] of clips [B, 3, T, S, S]; the network's own forward takes only 16 frames of 224 pixels."""
    _, read = _mvit(network)
    logits: Tensor = network.head(read(x, frozenset({"norm"}))["norm"].cls)
    return logits


def _on_grid(block: Callable[["Tensor", tuple[int, ...]], Any]) -> Callable[[tuple["Tensor", tuple[int, ...]]], Any]:
    """A block of MViT as a step from (tokens, grid) to (tokens, grid)."""
    return lambda state: block(*state)


def _children(network: Any, name: str) -> list[tuple[str, Any]]:
    return [(f"{name}.{child}", module) for child, module in network.get_submodule(name).named_children()]


def _maps(kept: Mapping[str, "Tensor"], *, channels_first: bool) -> dict[str, LayerOutput]:
    return {
        layer: LayerOutput(map=x.permute(0, 2, 3, 4, 1) if channels_first else x, cls=None) for layer, x in kept.items()
    }


_READERS: Mapping[str, Callable[[Any], Reader]] = {
    "r3d_18": _resnet,
    "mc3_18": _resnet,
    "r2plus1d_18": _resnet,
    "s3d": _s3d,
    "swin3d_t": _swin,
    "mvit_v2_s": _mvit,
}
# Networks whose own forward does not classify all clips that their layers accept.
_LOGITS: Mapping[str, Callable[[Any, "Tensor"], "Tensor"]] = {"s3d": _s3d_logits, "mvit_v2_s": _mvit_logits}
