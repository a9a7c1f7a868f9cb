"""Activation maps over real frames: the places to which an image model and a temporal module respond.

Source: AdViSe, Fig. 7 and its released script: the mean over channels of a map, scaled to [0, 1] frame by frame,
enlarged to the frame (bicubic), coloured (JET) and blended, 0.6 of the frame and 0.4 of the colour. The map of a module
is the output of the last BatchNorm of the first block's residual branch, before the sum; the map of the image model is
the stored one.

Differs from the paper: each frame is shown as the store's first crop of it, which is the image model's input.
"""

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from featcache.data.transforms import crop_resize
from featcache.data.types import Box
from featcache.errors import ConfigError, unknown_name
from featcache.extract.origin import source_roots
from featcache.files.publish import put_replace
from featcache.loaders.bank import open_bank
from featcache.loaders.choice import video_splits
from featcache.loaders.videos import find_files
from featcache.machine import resolve_device
from featcache.methods.advise.saved import arms_of, load_module
from featcache.networks.tmm import Bottleneck3d, Tmm
from featcache.report.drawn import Drawn
from featcache.report.figure_settings import ActivationFigureSettings
from featcache.stages import OnStage, ignore
from featcache.store.reader import Store, open_store

FRAME_SHARE = 0.6
LABEL_WIDTH = 96
_LABEL_CHARACTERS = 13
_GAP = 2

Pixels = npt.NDArray[np.uint8]


def heat(maps: Tensor) -> Tensor:
    """Mean over channels, scaled to [0, 1] frame by frame: float [T, h, w, C] to float32 [T, h, w].

    A frame whose map is constant becomes 0.
    """
    mean = maps.float().mean(dim=-1)
    low, high = mean.amin(dim=(1, 2), keepdim=True), mean.amax(dim=(1, 2), keepdim=True)
    return (mean - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def overlay(frames: Pixels, heats: Tensor) -> Pixels:
    """Blend frames with coloured heat maps.

    Args:
        frames: uint8 RGB [T, S, S, 3].
        heats: float [T, h, w] in [0, 1].

    Returns:
        uint8 RGB [T, S, S, 3], ``round(0.6 * frame + 0.4 * jet(heat))``.
    """
    side = frames.shape[1:3]
    enlarged = functional.interpolate(heats[:, None], side, mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)
    colours = colormaps["jet"](enlarged.numpy())[..., :3] * 255
    blended: Pixels = np.rint(FRAME_SHARE * frames + (1 - FRAME_SHARE) * colours).astype(np.uint8)
    return blended


@torch.inference_mode()
def branch_maps(tmm: Tmm, maps: Tensor) -> Tensor:
    """Output of the residual branch of the first block: float [T, h, w, C] to float32 [T, h, w, out].

    Raises:
        ConfigError: The module is of another kind than r3d.
    """
    first = tmm.blocks[0] if len(tmm.blocks) else None
    if not isinstance(first, Bottleneck3d):
        raise ConfigError("activation maps are those of an r3d block, and this module has none; give a run with one")
    caught: list[Tensor] = []
    hook = first.c_bn.register_forward_hook(lambda module, given, result: caught.append(result))
    try:
        device = next(tmm.parameters()).device
        tmm(maps.float().permute(3, 0, 1, 2)[None].to(device))
    finally:
        hook.remove()
    return caught[0][0].permute(1, 2, 3, 0).cpu()


def draw_activation(settings: ActivationFigureSettings, *, on_stage: OnStage = ignore) -> Drawn:
    """Draw the frames, the image model's maps and the maps of each module of a run, in one row each.

    Args:
        settings: Settings of the figure.
        on_stage: Never called: a picture takes seconds.

    Raises:
        UnknownNameError: The store has no such video.
        ConfigError: The run has no r3d module of that width, or there is no such device.
        ManifestError: The video's file does not exist any more.
        VideoError: The video has changed, or cannot be read.
    """
    device = resolve_device(settings.device)
    store = open_store(settings.bank.store)
    bank = open_bank(settings.bank.model_copy(update={"storage": "mmap"}), store=store)
    if settings.video not in bank.video_ids:
        raise unknown_name("video", settings.video, bank.video_ids, hint=f"See `featcache info {store.path}`.")
    video = bank.video_ids.index(settings.video)
    num_positions = -(-int(bank.num_source_frames[video]) // bank.bank_stride)
    positions = np.linspace(0, num_positions - 1, settings.num_frames).astype(np.int64)
    maps = bank.clips(np.array([video]), positions[None], [0]).on("cpu")[0]
    named = {"image model": heat(maps)}
    for arm, folder in arms_of(Path(settings.run)):
        module = load_module(folder, seed=settings.seed, shape=bank.shape).to(device)
        named[arm] = heat(branch_maps(module.tmm, maps))
    numbers, frames = source_frames(store, settings, feature=bank.features[0], positions=positions)
    rows = {"frames": frames} | {name: overlay(frames, heats) for name, heats in named.items()}
    buffer = io.BytesIO()
    montage(rows).save(buffer, "PNG" if settings.out.lower().endswith(".png") else "JPEG")
    put_replace(Path(settings.out), buffer.getvalue())
    return Drawn(facts={"out": settings.out, "video": settings.video, "rows": list(rows), "frames": numbers})


def source_frames(
    store: Store, settings: ActivationFigureSettings, *, feature: str, positions: npt.NDArray[np.int64]
) -> tuple[list[int], Pixels]:
    """Frame numbers, and the first stored crop of each as uint8 RGB [T, size, size, 3], from the source video."""
    with store.feature(feature, splits=video_splits(store, settings.bank.split_column)) as features:
        video = features.video_ids.index(settings.video)
        rows = features.video_start[video] + positions * features.num_crops[video]
        table = features.rows
        numbers = table.frames[rows, 0].tolist()
        boxes = [
            Box(y0=int(table.y0[row]), x0=int(table.x0[row]), y1=int(table.y1[row]), x1=int(table.x1[row]))
            for row in rows
        ]
        flips = table.flip[rows].tolist()
    roots = [Path(settings.videos)] if settings.videos is not None else source_roots(store)
    files = find_files(
        [store.videos[settings.video]],
        roots,
        decoder=store.sampling.decoder,
        hint="the picture shows its frames; give --videos DIR",
    )
    with files.open(0) as reader:
        pictures = {number: frame.copy() for number, frame in reader.read(sorted(set(numbers)))}
    crops = [
        crop_resize(
            torch.from_numpy(pictures[number]).permute(2, 0, 1),
            box,
            size=settings.size,
            interpolation="bilinear",
            flip=flip,
        ).permute(1, 2, 0)
        for number, box, flip in zip(numbers, boxes, flips, strict=True)
    ]
    return numbers, torch.stack(crops).numpy()


def montage(rows: Mapping[str, Pixels]) -> Image.Image:
    """Arrange named rows of frames, uint8 [T, S, S, 3] each, as one picture with the names on the left."""
    num_frames, side = next(iter(rows.values())).shape[:2]
    width = LABEL_WIDTH + num_frames * (side + _GAP)
    sheet = Image.new("RGB", (width, len(rows) * (side + _GAP)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for line, (name, frames) in enumerate(rows.items()):
        top = line * (side + _GAP)
        label = textwrap.fill(name, _LABEL_CHARACTERS)
        draw.text((6, top + side / 2), label, fill=(20, 20, 20), anchor="lm", font=ImageFont.load_default(13))
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (LABEL_WIDTH + column * (side + _GAP), top))
    return sheet
