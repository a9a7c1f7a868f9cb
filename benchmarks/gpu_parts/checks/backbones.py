"""Each backbone family with random weights and small inputs: float32, TF32, float16 and bfloat16 against the CPU."""

import functools
from pathlib import Path

import torch
from torch import Tensor

from featcache.backbones import Backbone, build_backbone
from featcache.extract.encode import float32_products
from featcache.machine import Matmul
from featcache.seeding import seed_for
from gpu_parts.bench import SkippedError
from gpu_parts.checks.comparing import BFLOAT16, FLOAT16, FLOAT32, Check, distance, within

NUM_FRAMES = {
    "i3d": 9,
    "mvit_v2_s": 4,
    "r21d": 4,
    "r3d_18": 4,
    "rho-byol-r50": 2,
    "s3d": 13,
    "shufflenet3d": 4,
    "squeezenet3d": 4,
    "svt-tiny": 4,
    "svt-tiny-slowfast": 8,
    "swin3d_t": 4,
    "videomae-b": 4,
    "vjepa2-l": 2,
    "xclip-b16": 4,
}
"""One of each family that has its own network, and the frames of the clip of those that see videos."""
IMAGES = ("clip-b32", "dinov2-s14", "dinov3-s16", "timm/test_resnet", "timm/test_vit+timm/test_resnet")
NAMES = (*IMAGES, *NUM_FRAMES)
QUICK = ("timm/test_resnet", "timm/test_vit+timm/test_resnet", "svt-tiny", "svt-tiny-slowfast", "squeezenet3d")
"""Those that a laptop builds in a second: convolutions and attention, of frames and of clips."""


def check(name: str, device: str, folder: Path) -> str:
    """The last layer of one backbone."""
    try:
        backbone = build_backbone(name, weights="random")
    except ModuleNotFoundError as error:
        raise SkippedError(f"{error.name} is not installed") from error
    size = backbone.card.input_size
    shape = (1, NUM_FRAMES[name], 3, size, size) if backbone.kind == "video" else (2, 3, size, size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(seed_for(0, "gpu", name)))
    wanted = _encoded(backbone, pixels, "cpu")
    backbone.to(device)
    said = [within(_apart(_encoded(backbone, pixels, device), wanted), FLOAT32, "float32")]
    tf32 = _encoded(backbone, pixels, device, matmul="high")
    said.append(within(_apart(tf32, wanted), FLOAT16, "TF32"))
    for dtype, limit in ((torch.float16, FLOAT16), (torch.bfloat16, BFLOAT16)):
        found = _encoded(backbone, pixels, device, dtype=dtype)
        said.append(within(_apart(found, wanted), limit, str(dtype).removeprefix("torch.")))
    return ", ".join(said)


def _encoded(
    backbone: Backbone, pixels: Tensor, device: str, *, matmul: Matmul = "highest", dtype: torch.dtype | None = None
) -> list[Tensor]:
    last = backbone.layers[-1]
    kind = torch.device(device).type
    with float32_products(matmul), torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype is not None):
        output = backbone.encode(pixels.to(device), [last])[last]
    return [tensor for tensor in (output.map, output.cls) if tensor is not None]


def _apart(mine: list[Tensor], theirs: list[Tensor]) -> float:
    return max(distance(one, other) for one, other in zip(mine, theirs, strict=True))


CHECKS: dict[str, Check] = {f"backbone {name}": functools.partial(check, name) for name in NAMES}
