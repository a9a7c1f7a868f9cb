from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featcache.data.decoding import clips, open_video
from featcache.data.decoding.clips import CropSize, RowBatch, decode_rows
from featcache.data.noise import add_noise
from featcache.data.types import Box, ClipSpec, ColorStep, Timeline, VideoNoise
from featcache.errors import VideoError
from featcache.noise import NoiseRecipe
from featcache.testing.videos import sequential_frames

HEIGHT, WIDTH, NUM_FRAMES = 24, 36, 12
PICTURES = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


class FakeReader:
    """Frames from memory in one reused buffer, counting what is read."""

    codec = "fake"
    timeline = Timeline(pts_seconds=np.arange(NUM_FRAMES) / 10, duration_seconds=1.2, height=HEIGHT, width=WIDTH)

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        assert list(indices) == sorted(set(indices))
        buffer = np.empty_like(PICTURES[0])
        for index in indices:
            self.drawn.append(index)
            buffer[:] = PICTURES[index]
            yield index, buffer
            buffer[:] = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def reference(frames, spec: ClipSpec, size: CropSize) -> np.ndarray:
    """One row, the plain and slow way."""
    box, out = spec.box, []
    for index in spec.frames:
        noise = spec.noise
        shown = frames[index].copy()
        if noise is not None and noise.recipe.place == "frame":
            shown = add_noise(shown, noise, frame=index)
        image = torch.from_numpy(shown).permute(2, 0, 1).contiguous()
        part = image[:, box.y0 : box.y1, box.x0 : box.x1].contiguous()
        mode = InterpolationMode(size.interpolation)
        part = functional.resize(part, [size.size, size.size], interpolation=mode, antialias=True)
        part = functional.horizontal_flip(part) if spec.flip else part
        if noise is not None and noise.recipe.place == "crop":
            part = torch.from_numpy(add_noise(part.contiguous().numpy(), noise, frame=index))
        for name, amount in spec.color:
            part = functional.adjust_hue(part, amount) if name == "hue" else functional.adjust_contrast(part, amount)
        out.append(part)
    return torch.stack(out).numpy()


def gather(batches: Iterator[RowBatch], num_rows: int, sizes: Sequence[CropSize]) -> dict[CropSize, list[np.ndarray]]:
    rows: dict[CropSize, dict[int, np.ndarray]] = {size: {} for size in sizes}
    for batch in batches:
        assert set(batch.pixels) == set(sizes)
        for size, pixels in batch.pixels.items():
            for row, pixel in zip(batch.rows, pixels, strict=True):
                assert row not in rows[size], "a row comes once"
                rows[size][row] = pixel
    return {size: [found[row] for row in range(num_rows)] for size, found in rows.items()}


NOISES = (
    None,
    VideoNoise(NoiseRecipe(kind="gaussian", severity=3), "v"),
    VideoNoise(NoiseRecipe(kind="impulse", severity=5), "v"),
    VideoNoise(NoiseRecipe(kind="gaussian", severity=3, place="crop"), "v"),
)


@st.composite
def row_plans(draw):
    num_frames = draw(st.integers(1, 4))
    specs = []
    for index in range(draw(st.integers(1, 8))):
        y0, x0 = draw(st.integers(0, HEIGHT - 8)), draw(st.integers(0, WIDTH - 8))
        y1, x1 = draw(st.integers(y0 + 1, HEIGHT)), draw(st.integers(x0 + 1, WIDTH))
        frames = draw(st.lists(st.integers(0, NUM_FRAMES - 1), min_size=num_frames, max_size=num_frames))
        flip = draw(st.booleans())
        color = draw(
            st.sampled_from([(), (ColorStep("hue", 0.2),), (ColorStep("contrast", 0.5), ColorStep("hue", -0.1))])
        )
        box = Box(y0=y0, x0=x0, y1=y1, x1=x1)
        noise = draw(st.sampled_from(NOISES))
        specs.append(ClipSpec(index=index, frames=tuple(frames), box=box, flip=flip, color=color, noise=noise))
    return specs


@settings(max_examples=60)
@given(
    specs=row_plans(),
    sizes=st.lists(
        st.builds(CropSize, st.sampled_from([7, 16]), st.sampled_from(["bilinear", "bicubic"])),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    max_batch_bytes=st.sampled_from([0, 1500, 10_000, 1 << 20]),
)
def test_one_pass_equals_the_plain_way(specs, sizes, max_batch_bytes):
    reader = FakeReader()
    batches = list(decode_rows(reader, specs, sizes, max_batch_bytes=max_batch_bytes))
    found = gather(iter(batches), len(specs), sizes)
    for size in sizes:
        for row, spec in enumerate(specs):
            np.testing.assert_array_equal(found[size][row], reference(PICTURES, spec, size))
    assert reader.drawn == sorted({frame for spec in specs for frame in spec.frames}), "each frame once"
    for batch in batches:
        num_bytes = sum(pixels.nbytes for pixels in batch.pixels.values())
        assert num_bytes <= max_batch_bytes or len(batch.rows) == 1
        assert all(pixels.flags.c_contiguous for pixels in batch.pixels.values())


BOX = Box(y0=0, x0=0, y1=24, x1=24)
SMALL = CropSize(8, "bilinear")


def bank(num_rows: int, *, num_boxes: int = 1) -> list[ClipSpec]:
    return [
        ClipSpec(index=row, frames=(row // num_boxes,), box=Box(y0=0, x0=row % num_boxes, y1=24, x1=24), flip=False)
        for row in range(num_rows)
    ]


def test_rows_come_as_they_are_complete():
    specs = [
        ClipSpec(index=0, frames=(0, 11), box=BOX, flip=False),
        ClipSpec(index=1, frames=(1, 2), box=BOX, flip=False),
        ClipSpec(index=2, frames=(5, 5), box=BOX, flip=False),
    ]
    reader = FakeReader()
    order = [(batch.rows, len(reader.drawn)) for batch in decode_rows(reader, specs, [SMALL], max_batch_bytes=1)]
    assert order == [((1,), 3), ((2,), 4), ((0,), 5)]


def test_memory_holds_one_batch_of_a_bank():
    row_bytes = 3 * 8 * 8
    reader = FakeReader()
    sizes = []
    for batch in decode_rows(reader, bank(12), [SMALL], max_batch_bytes=5 * row_bytes):
        sizes.append(len(batch.rows))
        assert len(reader.drawn) == sum(sizes), "nothing is read ahead of the consumer"
    assert sizes == [5, 5, 2]


def test_shared_work_is_done_once(monkeypatch):
    calls = []
    original = clips.crop_resize
    monkeypatch.setattr(clips, "crop_resize", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    same = [ClipSpec(index=row, frames=(0, 1, 0, 1), box=BOX, flip=False) for row in range(5)]
    list(decode_rows(FakeReader(), same, [SMALL, CropSize(9, "bicubic")], max_batch_bytes=1 << 20))
    assert len(calls) == 2 * 2, "two frames, two sizes"


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in decode_rows(FakeReader(), bank(4), [SMALL], max_batch_bytes=1):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_rows_is_no_batch():
    assert list(decode_rows(FakeReader(), [], [SMALL], max_batch_bytes=1)) == []


def test_uneven_rows_and_boxes_outside_are_refused():
    uneven = [
        ClipSpec(index=0, frames=(0,), box=BOX, flip=False),
        ClipSpec(index=1, frames=(0, 1), box=BOX, flip=False),
    ]
    with pytest.raises(ValueError, match="same number of frames"):
        list(decode_rows(FakeReader(), uneven, [SMALL], max_batch_bytes=1))
    outside = [ClipSpec(index=0, frames=(0,), box=Box(y0=0, x0=0, y1=25, x1=9), flip=False)]
    with pytest.raises(ValueError, match="does not fit"):
        list(decode_rows(FakeReader(), outside, [SMALL], max_batch_bytes=1))


def test_batches_show_their_shapes():
    batch = next(decode_rows(FakeReader(), bank(4), [SMALL], max_batch_bytes=1 << 20))
    assert repr(batch) == "RowBatch(4 rows, 8: (4, 1, 3, 8, 8))"


@pytest.mark.parametrize("name", ["h264", "mpeg4_packed", "rotated", "variable_rate"])
def test_real_videos_equal_the_plain_way(name, video):
    from featcache.testing.videos import VIDEO_KINDS

    frames = [VIDEO_KINDS[name].turned(frame) for frame in sequential_frames(video(name))]
    boxes = [Box(y0=0, x0=0, y1=60, x1=60), Box(y0=4, x0=4, y1=64, x1=64)]
    specs = [
        ClipSpec(index=2 * start + side, frames=tuple(range(start, start + 16, 4)), box=box, flip=bool(side))
        for start in range(0, 30, 5)
        for side, box in enumerate(boxes)
    ]
    sizes = [CropSize(32, "bicubic"), CropSize(20, "bilinear")]
    with open_video(video(name)) as reader:
        found = gather(decode_rows(reader, specs, sizes, max_batch_bytes=100_000), len(specs), sizes)
    for size in sizes:
        for row, spec in enumerate(specs):
            np.testing.assert_array_equal(found[size][row], reference(frames, spec, size))


def test_a_frame_that_cannot_be_had_is_the_video_s_failure(video):
    beyond = [ClipSpec(index=0, frames=(1000,), box=Box(y0=0, x0=0, y1=9, x1=9), flip=False)]
    with open_video(video("h264")) as reader, pytest.raises(VideoError, match="only 48 frames decode"):
        list(decode_rows(reader, beyond, [SMALL], max_batch_bytes=1))
