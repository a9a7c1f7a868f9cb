"""One pass over a video for all its rows: clips, crops and input sizes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featcache.data.boxes import around
from featcache.data.decoding.base import VideoReader
from featcache.data.noise import Pixels, add_noise
from featcache.data.transforms import crop_resize, recolor
from featcache.data.types import Box, ClipSpec, ColorStep, VideoNoise
from featcache.recipes import Interpolation

MAX_BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class CropSize:
    """Input size of a backbone, to which boxes are resized.

    Attributes:
        size: Side in pixels.
        interpolation: Filter of the antialiased resize on uint8.
    """

    size: int
    interpolation: Interpolation


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Finished rows of one video.

    Attributes:
        rows: Positions in the ``specs`` given to :func:`decode_rows`.
        pixels: For each size, uint8 [len(rows), T, 3, S, S].
    """

    rows: tuple[int, ...]
    pixels: Mapping[CropSize, npt.NDArray[np.uint8]]

    def __post_init__(self) -> None:
        for size, array in self.pixels.items():
            assert len(array) == len(self.rows), f"{len(self.rows)} rows but {array.shape} pixels of {size}"

    def __repr__(self) -> str:
        shapes = ", ".join(f"{size.size}: {array.shape}" for size, array in self.pixels.items())
        return f"RowBatch({len(self.rows)} rows, {shapes})"


def decode_rows(
    reader: VideoReader, specs: Sequence[ClipSpec], sizes: Sequence[CropSize], *, max_batch_bytes: int
) -> Iterator[RowBatch]:
    """Decode each needed frame once and yield the rows of all ``specs``, for all ``sizes``, as they become complete.

    A row's pixels are defined by :func:`featcache.data.transforms.crop_resize` and ``recolor`` of its frames, with
    :func:`featcache.data.noise.add_noise` before the crop or after the resize where a row has noise. What several rows
    share (noisy frames; crops of the same frame, noise, box, flip, colours and size) is computed once. Memory holds one
    frame, with and without noise, the unfinished rows, and one batch.

    Args:
        reader: An open video.
        specs: Rows, all with the same number of frames.
        sizes: Distinct input sizes.
        max_batch_bytes: Largest size of a batch; a single larger row becomes a batch of its own.

    Yields:
        Batches in order of completion; each row is in exactly one.

    Raises:
        VideoError: A frame cannot be decoded.
        ValueError: ``specs`` differ in length, or a box does not fit the frame.
    """
    if len({len(spec.frames) for spec in specs}) > 1:
        raise ValueError("the rows of one video must have the same number of frames")
    needs: dict[int, list[int]] = defaultdict(list)  # frame -> rows
    for row, spec in enumerate(specs):
        for frame in sorted(set(spec.frames)):
            needs[frame].append(row)
    missing = {row: len(set(spec.frames)) for row, spec in enumerate(specs)}
    open_rows: dict[int, dict[CropSize, npt.NDArray[np.uint8]]] = {}
    done: list[int] = []
    row_bytes = sum(3 * size.size**2 for size in sizes) * (len(specs[0].frames) if specs else 0)
    for frame, picture in reader.read(sorted(needs)):
        images = _images(picture, frame, [specs[row] for row in needs[frame]])
        shared: dict[tuple[VideoNoise | None, Box, bool, tuple[ColorStep, ...], CropSize], Pixels] = {}
        for row in needs[frame]:
            spec = specs[row]
            if row not in open_rows:
                open_rows[row] = {
                    size: np.empty((len(spec.frames), 3, size.size, size.size), np.uint8) for size in sizes
                }
            places = [place for place, wanted in enumerate(spec.frames) if wanted == frame]
            for size in sizes:
                key = (spec.noise, spec.box, spec.flip, spec.color, size)
                if key not in shared:
                    shared[key] = _crop(images[spec.noise], frame, spec, size)
                open_rows[row][size][places] = shared[key]
            missing[row] -= 1
            if not missing[row]:
                done.append(row)
                if (len(done) + 1) * row_bytes > max_batch_bytes:
                    yield _batch(done, open_rows, sizes)
                    done = []
    if done:
        yield _batch(done, open_rows, sizes)
    assert not open_rows, f"rows {sorted(open_rows)} were never finished"


def _batch(
    rows: list[int], open_rows: dict[int, dict[CropSize, npt.NDArray[np.uint8]]], sizes: Sequence[CropSize]
) -> RowBatch:
    """Stack finished rows and release them."""
    parts = [open_rows.pop(row) for row in rows]
    return RowBatch(rows=tuple(rows), pixels={size: np.stack([part[size] for part in parts]) for size in sizes})


def _images(picture: Pixels, frame: int, specs: Sequence[ClipSpec]) -> dict[VideoNoise | None, torch.Tensor]:
    """The frame as it is before the crops of some rows, uint8 [3, H, W] for each noise among them."""
    boxes: dict[VideoNoise | None, list[Box]] = defaultdict(list)
    for spec in specs:
        boxes[spec.noise].append(spec.box)
    images = {}
    for noise, wanted in boxes.items():
        if noise is None or noise.recipe.place == "crop":
            shown = picture
        else:
            shown = add_noise(picture, noise, frame=frame, box=around(wanted))
        images[noise] = torch.from_numpy(shown).permute(2, 0, 1)
    return images


def _crop(image: torch.Tensor, frame: int, spec: ClipSpec, size: CropSize) -> Pixels:
    """One crop of one frame, uint8 [3, S, S]."""
    with one_thread():
        crop = crop_resize(image, spec.box, size=size.size, interpolation=size.interpolation, flip=spec.flip)
        if spec.noise is not None and spec.noise.recipe.place == "crop":
            crop = torch.from_numpy(add_noise(crop.numpy(), spec.noise, frame=frame))
        crop = recolor(crop, spec.color)
    pixels: Pixels = crop.numpy()
    return pixels


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: decoders run in parallel processes, and pixels must not depend on the thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
