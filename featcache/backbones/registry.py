"""Lists backbones and builds one by name. Without torch: a module is imported when it is needed.

Each module of this package has a function ``build`` and ``CARDS``, the cards of its names; it imports torch and the
library of its networks inside functions, so that a list of all backbones and their cards needs neither.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from featcache.backbones.base import Backbone, Builder, WeightsCard
from featcache.backbones.classifier_file import find_classifier, is_classifier
from featcache.backbones.from_file import builder_of_file, is_of_file
from featcache.errors import PluginError, UnknownNameError
from featcache.networks.catalogue import NETWORKS, WIDTHS
from featcache.plugins import BUILT_IN, Place, Registry

JOIN = "+"
"""Separator of joined names, ``clip-l14+dinov2-l14``; see :mod:`featcache.backbones.concat`."""

_ROOM = "featcache.backbones"
_NAMES: dict[str, dict[str, str]] = {
    "clip": {
        "clip-b16": "CLIP ViT-B/16 of OpenAI, 14 x 14 x 768",
        "clip-b32": "CLIP ViT-B/32 of OpenAI, 7 x 7 x 768",
        "clip-l14": "CLIP ViT-L/14 of OpenAI, 16 x 16 x 1024",
    },
    "clip_networks": {
        f"{name}{ending}": f"{what}, clips of 16 frames of 112 pixels, a map and a vector{thin}"
        for name, what in NETWORKS.items()
        for ending, thin in zip(WIDTHS, ("", "; an eighth of the channels"), strict=True)
    },
    "vit": {
        "dinov2-b14": "DINOv2 ViT-B/14, 16 x 16 x 768",
        "dinov2-g14": "DINOv2 ViT-g/14, 16 x 16 x 1536",
        "dinov2-l14": "DINOv2 ViT-L/14, 16 x 16 x 1024",
        "dinov2-s14": "DINOv2 ViT-S/14, 16 x 16 x 384",
        "dinov2reg-b14": "DINOv2 with registers ViT-B/14, 16 x 16 x 768",
        "dinov2reg-g14": "DINOv2 with registers ViT-g/14, 16 x 16 x 1536",
        "dinov2reg-l14": "DINOv2 with registers ViT-L/14, 16 x 16 x 1024",
        "dinov2reg-s14": "DINOv2 with registers ViT-S/14, 16 x 16 x 384",
        "dinov3-b16": "DINOv3 ViT-B/16, 14 x 14 x 768",
        "dinov3-l16": "DINOv3 ViT-L/16, 14 x 14 x 1024",
        "dinov3-s16": "DINOv3 ViT-S/16, 14 x 14 x 384",
        "mae-b16": "MAE ViT-B/16, 14 x 14 x 768",
        "mae-l16": "MAE ViT-L/16, 14 x 14 x 1024",
        "siglip2-b16": "SigLIP 2 ViT-B/16, 14 x 14 x 768",
        "siglip2-l16": "SigLIP 2 ViT-L/16, 16 x 16 x 1024",
        "siglip2-so400m14": "SigLIP 2 ViT-SO400M/14, 16 x 16 x 1152",
    },
    "i3d": {
        "i3d": "Inception-I3D RGB, Kinetics-400, clips of 32 frames, t/8 x 7 x 7 x 1024",
    },
    "rho_byol": {
        "rho-byol-r50": "Slow R50 of rho-BYOL, Kinetics-400, clips of 16 frames, t x 7 x 7 x 2048",
    },
    "svt": {
        "svt-b": "SVT's TimeSformer ViT-B/16, Kinetics-400, clips of 8 frames, t x 14 x 14 x 768 and a class token",
        "svt-s": "SVT's TimeSformer ViT-S/16, own weights, t x 14 x 14 x 384 and a class token",
        "svt-tiny": "SVT's TimeSformer of 4 blocks for small machines, own weights, t x 7 x 7 x 192 and a class token",
    },
    "svt_slowfast": {
        "svt-b-slowfast": "svt-b on 8 frames of 224 pixels and 64 of 96, class tokens averaged",
        "svt-s-slowfast": "svt-s on 8 frames of 224 pixels and 64 of 96, class tokens averaged",
        "svt-tiny-slowfast": "svt-tiny on 8 frames of 112 pixels and 64 of 48, class tokens averaged",
    },
    "torchvision": {
        "mc3_18": "torchvision mixed-convolution ResNet-18, Kinetics-400, clips of 16 frames, t x 7 x 7 x 512",
        "mvit_v2_s": "torchvision MViTv2-S, Kinetics-400, clips of 16 frames, t/2 x 7 x 7 x 768",
        "r2plus1d_18": "torchvision R(2+1)D-18, Kinetics-400, clips of 16 frames, t/8 x 7 x 7 x 512",
        "r3d_18": "torchvision 3D ResNet-18, Kinetics-400, clips of 16 frames, t/8 x 7 x 7 x 512",
        "s3d": "torchvision S3D, Kinetics-400, clips of 128 frames, t/8 x 7 x 7 x 1024",
        "swin3d_t": "torchvision Video Swin-T, Kinetics-400, clips of 32 frames, t/2 x 7 x 7 x 768",
    },
    "videomae": {
        "videomae-b": "VideoMAE ViT-B, pre-trained on Kinetics-400 (1600 epochs), 8 x 14 x 14 x 768",
        "videomae-b-k400": "VideoMAE ViT-B, fine-tuned on Kinetics-400, 8 x 14 x 14 x 768",
        "videomae-b-ssv2": "VideoMAE ViT-B, fine-tuned on Something-Something v2 (2400 epochs), 8 x 14 x 14 x 768",
        "videomae-l": "VideoMAE ViT-L, pre-trained on Kinetics-400 (1600 epochs), 8 x 14 x 14 x 1024",
    },
    "vjepa2": {
        "vjepa2-l": "V-JEPA 2 ViT-L, clips of 64 frames, t/2 x 16 x 16 x 1024",
    },
    "xclip": {
        "xclip-b16": "X-CLIP ViT-B/16, Kinetics-400, clips of 8 frames, 8 x 14 x 14 x 512",
    },
}
_WITH_TRANSFORMERS = ("videomae", "vjepa2", "xclip")
_FAMILIES = (
    Place(
        name=JOIN,
        target=f"{_ROOM}.concat:build",
        pattern="<name>+<name>",
        summary="image backbones side by side, channels concatenated, e.g. clip-l14+dinov2-l14",
        example="timm/test_vit+timm/test_resnet",
    ),
    Place(
        name="open_clip/",
        target=f"{_ROOM}.clip:build",
        pattern="open_clip/<arch>:<tag>",
        summary="the image tower of any open_clip model, e.g. open_clip/ViT-B-16:laion2b_s34b_b88k",
        example="open_clip/RN50:openai",
    ),
    Place(
        name="timm/",
        target=f"{_ROOM}.timm:build",
        pattern="timm/<name>",
        summary="any image model of timm, e.g. timm/vit_small_patch16_224.dino",
        example="timm/tf_efficientnet_lite0",
    ),
)

BACKBONES: Registry[Builder] = Registry(
    kind="backbone",
    group="featcache.backbones",
    entry=Callable,
    built_in=(
        *(
            Place(
                name=name,
                target=f"{_ROOM}.{module}:build",
                summary=summary,
                library="transformers" if module in _WITH_TRANSFORMERS else "",
                extra="video" if module in _WITH_TRANSFORMERS else "",
            )
            for module, names in _NAMES.items()
            for name, summary in names.items()
        ),
        *_FAMILIES,
    ),
    hint="Run `featcache backbones` for the list.",
)


def card_of(place: Place) -> WeightsCard | None:
    """The card of a listed backbone if it is known before building, i.e. not for families or other packages."""
    if place.origin != BUILT_IN or place.pattern:
        return None
    card: WeightsCard = importlib.import_module(place.target.partition(":")[0]).CARDS[place.name]
    return card


def build_backbone(name: str, *, weights: str = "default") -> Backbone:
    """Build a frozen backbone.

    Args:
        name: A registered name, ``<family>/<name>``, or a name from :func:`featcache.use_backbone`.
        weights: ``default`` (the card's), ``random`` (seeded by the name; never a fall-back) or the path of a file.
            With one of :mod:`featcache.backbones.classifier_file` the backbone classifies as the fine-tuned model does.

    Raises:
        UnknownNameError: There is no such backbone.
        WeightsError: The weights cannot be found or do not fit.
        PluginError: The package or file that offers it is broken, or unknown to this process.
        ConfigError: It needs a library that is not installed.
    """
    check_name(name)
    build = builder_of_file(name) or BACKBONES.load(name)
    path = Path(weights).expanduser()
    if not is_classifier(path):
        return build(name, weights)
    from featcache.backbones.tuned import check_backbone, with_head

    facts = check_backbone(name, path)
    return with_head(build(name, weights), facts, path)


def classifier_of(given: str, *, seed: int | None = None) -> Path | None:
    """The file of a fine-tuned classifier, where a user names a run in place of a backbone; a backbone's name wins.

    Args:
        given: A name, the folder of a run or of one of its seeds, or a file.
        seed: Which seed of a run; ``None``: its only one.

    Returns:
        The file, or ``None`` for anything that is neither a folder nor a classifier.

    Raises:
        ConfigError: The folder holds none, or several and no seed is given.
    """
    path = Path(given).expanduser()
    if is_of_file(given) or not (path.is_dir() or is_classifier(path)):
        return None
    try:
        check_name(given)
    except UnknownNameError:
        return find_classifier(path, seed=seed)
    return None


def check_name(name: str) -> None:
    """Check that there is such a backbone, without importing anything.

    Raises:
        UnknownNameError: There is no such backbone; names the closest.
        PluginError: Several packages offer it, or it is a function of a file that is unknown to this process.
    """
    if not is_of_file(name):
        if BACKBONES.find(name).name == JOIN:
            for member in name.split(JOIN):
                check_name(member)
    elif builder_of_file(name) is None:
        raise PluginError(
            f"backbone {name!r} is a function of a Python file, which is run only where you say where it is; start "
            f"with `featcache --use path/to/{name}`, or in Python featcache.use_backbone('path/to/{name}')"
        )
