"""Vision transformers by short name, all through timm: DINOv2, DINOv3, MAE and SigLIP 2.

The default layer is the tokens after the final normalisation. Each backbone takes any input size that is a multiple of
its patch, by default 224 pixels (256 for SigLIP 2 L/16, which was published for no smaller size). Position embeddings
stay as published, 37 x 37 for DINOv2, and are interpolated to the grid in the forward pass (bicubic with antialiasing);
DINOv3 has rotary embeddings, which need no interpolation.
"""

from dataclasses import dataclass

from featcache.backbones.base import Backbone, Statistics, WeightsCard

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# The evaluation of DINOv2 and MAE: 224 pixels out of 256.
CROP_OF_256 = 224 / 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Facts that all sizes of a model share.

    Attributes:
        title: Common name of the model.
        license: Licence of the weights.
        paper: Paper that describes it.
        statistics: Mean and std with which it was trained.
        crop_fraction: Side of the test crop as a fraction of the shorter side. 1 if the authors resize the whole
            picture to a square; boxes here keep the aspect ratio.
    """

    title: str
    license: str
    paper: str
    statistics: tuple[Statistics, Statistics] = IMAGENET
    crop_fraction: float = CROP_OF_256


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One set of weights.

    Attributes:
        family: Family of the model.
        size: Size, e.g. ``ViT-L/14``.
        model: timm's name, which is also the name of the repository under ``timm/`` on the Hugging Face hub.
        channels: Width of the tokens.
        patch: Side of a patch in pixels.
        authors_file: The authors' own file without suffix, if timm can read its layout and the name is fixed.
        input_size: Input side in pixels.
    """

    family: Family
    size: str
    model: str
    channels: int
    patch: int
    authors_file: str = ""
    input_size: int = 224


DINOV2 = Family(title="DINOv2", license="apache-2.0", paper="arXiv:2304.07193")
REGISTERS = Family(title="DINOv2 with registers", license="apache-2.0", paper="arXiv:2309.16588")
DINOV3 = Family(title="DINOv3", license="dinov3-license", paper="arXiv:2508.10104", crop_fraction=1.0)
MAE = Family(title="MAE", license="cc-by-nc-4.0", paper="arXiv:2111.06377")
SIGLIP2 = Family(
    title="SigLIP 2", license="apache-2.0", paper="arXiv:2502.14786", statistics=HALF, crop_fraction=1.0
)  # fmt: skip


def _dinov2(letter: str, word: str, channels: int, *, registers: bool) -> Published:
    return Published(
        family=REGISTERS if registers else DINOV2,
        size=f"ViT-{letter if letter == 'g' else letter.upper()}/14",  # ViT-G is another, larger network
        model=f"vit_{word}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
        channels=channels,
        patch=14,
        authors_file=f"dinov2_vit{letter}14_{'reg4_' if registers else ''}pretrain",
    )


_DINOV2_SIZES = {"s": ("small", 384), "b": ("base", 768), "l": ("large", 1024), "g": ("giant", 1536)}

SHORT_NAMES: dict[str, Published] = {
    **{f"dinov2-{s}14": _dinov2(s, word, width, registers=False) for s, (word, width) in _DINOV2_SIZES.items()},
    **{f"dinov2reg-{s}14": _dinov2(s, word, width, registers=True) for s, (word, width) in _DINOV2_SIZES.items()},
    "dinov3-s16": Published(
        family=DINOV3, size="ViT-S/16", model="vit_small_patch16_dinov3.lvd1689m", channels=384, patch=16
    ),
    "dinov3-b16": Published(
        family=DINOV3, size="ViT-B/16", model="vit_base_patch16_dinov3.lvd1689m", channels=768, patch=16
    ),
    "dinov3-l16": Published(
        family=DINOV3, size="ViT-L/16", model="vit_large_patch16_dinov3.lvd1689m", channels=1024, patch=16
    ),
    "mae-b16": Published(
        family=MAE,
        size="ViT-B/16",
        model="vit_base_patch16_224.mae",
        channels=768,
        patch=16,
        authors_file="mae_pretrain_vit_base",
    ),
    "mae-l16": Published(
        family=MAE,
        size="ViT-L/16",
        model="vit_large_patch16_224.mae",
        channels=1024,
        patch=16,
        authors_file="mae_pretrain_vit_large",
    ),
    "siglip2-b16": Published(
        family=SIGLIP2, size="ViT-B/16", model="vit_base_patch16_siglip_224.v2_webli", channels=768, patch=16
    ),
    "siglip2-l16": Published(
        family=SIGLIP2,
        size="ViT-L/16",
        model="vit_large_patch16_siglip_256.v2_webli",
        channels=1024,
        patch=16,
        input_size=256,
    ),
    "siglip2-so400m14": Published(
        family=SIGLIP2, size="ViT-SO400M/14", model="vit_so400m_patch14_siglip_224.v2_webli", channels=1152, patch=14
    ),
}


def _card_of(name: str) -> WeightsCard:
    """The card of a short name."""
    published = SHORT_NAMES[name]
    family = published.family
    mean, std = family.statistics
    authors = f", or the authors' {published.authors_file}.pth" if published.authors_file else ""
    return WeightsCard(
        source=f"timm/{published.model} on the Hugging Face hub{authors}",
        license=family.license,
        paper=family.paper,
        file_name=f"{name}.safetensors",
        input_size=published.input_size,
        crop_fraction=family.crop_fraction,
        mean=mean,
        std=std,
    )


CARDS = {name: _card_of(name) for name in SHORT_NAMES}


def build(name: str, weights: str) -> Backbone:
    """Build a transformer; see :func:`featcache.backbones.timm.build_published`."""
    from featcache.backbones.timm import build_published

    published = SHORT_NAMES[name]
    stems = [name, *([published.authors_file] if published.authors_file else []), published.model]
    return build_published(name, weights, model_name=published.model, card=CARDS[name], stems=stems)
