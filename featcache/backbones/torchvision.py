"""Video networks of torchvision: ``r3d_18``, ``r2plus1d_18``, ``mc3_18``, ``s3d``, ``mvit_v2_s``, ``swin3d_t``.

The cards repeat what ``torchvision.models.video`` says of its weights, because importing it takes seconds.
"""

from dataclasses import dataclass

from featcache.backbones.base import Backbone, WeightsCard, register_backbone

_MEAN = (0.43216, 0.394666, 0.37645)
_STD = (0.22803, 0.22145, 0.216989)
_ORIGIN = "https://download.pytorch.org/models/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One network.

    Attributes:
        file_name: Of its weights, trained on Kinetics-400.
        summary: One line for ``featcache backbones``.
        paper: That describes it.
        input_size: Side in pixels.
        mean: RGB means.
        std: RGB deviations.
        num_frames: Frames of a clip.
        frame_stride: Their distance in videos of 30 frames a second.
    """

    file_name: str
    summary: str
    paper: str
    input_size: int = 224
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    num_frames: int = 16
    frame_stride: int = 2


VARIANTS = {
    "r3d_18": Variant(
        file_name="r3d_18-b3b3357e.pth",
        summary="torchvision 3D ResNet-18, Kinetics-400, clips of 16 frames, t/8 x 7 x 7 x 512",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "mc3_18": Variant(
        file_name="mc3_18-a90a0ba3.pth",
        summary="torchvision mixed-convolution ResNet-18, Kinetics-400, clips of 16 frames, t x 7 x 7 x 512",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "r2plus1d_18": Variant(
        file_name="r2plus1d_18-91a641e6.pth",
        summary="torchvision R(2+1)D-18, Kinetics-400, clips of 16 frames, t/8 x 7 x 7 x 512",
        paper="arXiv:1711.11248",
        input_size=112,
    ),
    "s3d": Variant(
        file_name="s3d-d76dad2f.pth",
        summary="torchvision S3D, Kinetics-400, clips of 128 frames, t/8 x 7 x 7 x 1024",
        paper="arXiv:1712.04851",
        num_frames=128,
    ),
    "mvit_v2_s": Variant(
        file_name="mvit_v2_s-ae3be167.pth",
        summary="torchvision MViTv2-S, Kinetics-400, clips of 16 frames, t/2 x 7 x 7 x 768",
        paper="arXiv:2112.01526",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        frame_stride=4,
    ),
    "swin3d_t": Variant(
        file_name="swin3d_t-7615ae03.pth",
        summary="torchvision Video Swin-T, Kinetics-400, clips of 32 frames, t/2 x 7 x 7 x 768",
        paper="arXiv:2106.13230",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_frames=32,
    ),
}


def card_of(name: str) -> WeightsCard:
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


def build_torchvision(name: str, weights: str) -> Backbone:
    """Build a network; see :func:`featcache.backbones._torchvision.build`."""
    from featcache.backbones._torchvision import build

    return build(name, weights)


for _name, _variant in VARIANTS.items():
    register_backbone(_name, summary=_variant.summary, card=card_of(_name))(build_torchvision)
