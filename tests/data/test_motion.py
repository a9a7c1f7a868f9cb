import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from featcache.data.motion import (
    AXES,
    LISTING_NAME,
    MOTIONS,
    PAIRS,
    PHOTOGRAPHS,
    Frames,
    Motion,
    MotionClip,
    MotionSettings,
    camera_path,
    encode_clip,
    load_photograph,
    make_motion_set,
    motion_clips,
    render_frames,
)
from featcache.data.sources import list_source
from featcache.errors import ConfigError

SMALL = MotionSettings(
    num_frames=8,
    size=64,
    train_per_picture_motion=1,
    test_unseen_per_picture_motion=1,
    num_unseen_pictures=18,
)
OPPOSITE: dict[Motion, Motion] = {a: b for pair in PAIRS.values() for a, b in itertools.permutations(pair)}


def decode(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def draw(settings: MotionSettings, motion: Motion, *, picture: str = "gravel") -> Frames:
    image = load_photograph(next(p for p in PHOTOGRAPHS if p.name == picture), settings)
    return render_frames(settings, MotionClip(split="train", picture=picture, motion=motion, number=0), image)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return make_motion_set(tmp_path_factory.mktemp("motion"), SMALL).parent


def test_photographs_are_many_distinct_and_textured():
    assert len(PHOTOGRAPHS) >= 20
    assert len({photograph.name for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS)
    settings = MotionSettings()
    digests = set()
    for photograph in PHOTOGRAPHS:
        image = load_photograph(photograph, settings)
        assert image.mode == "RGB"
        assert min(image.size) == round(1.25 * settings.size / settings.window[1])
        pixels = np.asarray(image)
        assert pixels.std() > 10
        digests.add(hashlib.sha256(pixels.tobytes()).hexdigest())
    assert len(digests) == len(PHOTOGRAPHS)


@pytest.mark.parametrize("settings", [MotionSettings(), SMALL, MotionSettings(seed=5, num_unseen_pictures=0)])
def test_no_picture_predicts_a_motion(settings: MotionSettings):
    clips = motion_clips(settings)
    assert len({clip.path for clip in clips}) == len(clips)
    counts = Counter((clip.split, clip.picture, clip.motion) for clip in clips)
    for split, per_cell in (
        ("train", settings.train_per_picture_motion),
        ("test_seen", settings.test_seen_per_picture_motion),
        ("test_unseen", settings.test_unseen_per_picture_motion),
    ):
        pictures = {clip.picture for clip in clips if clip.split == split}
        assert len(pictures) == (
            settings.num_unseen_pictures if split == "test_unseen" else len(PHOTOGRAPHS) - settings.num_unseen_pictures
        )
        assert {key: n for key, n in counts.items() if key[0] == split} == {
            (split, picture, motion): per_cell for picture in pictures for motion in MOTIONS
        }
    pictures_of = {split: {c.picture for c in clips if c.split == split} for split in ("train", "test_seen")}
    assert pictures_of["train"] == pictures_of["test_seen"]
    assert not pictures_of["train"] & {clip.picture for clip in clips if clip.split == "test_unseen"}


def test_defaults_are_the_quickstarts():
    assert Counter(clip.split for clip in motion_clips(MotionSettings())) == {
        "train": 640,
        "test_seen": 128,
        "test_unseen": 144,
    }


def test_exactly_one_coordinate_moves_at_constant_speed_and_never_turns_back():
    for settings in (MotionSettings(), MotionSettings(num_frames=128)):
        for clip in motion_clips(settings)[:64]:
            path = camera_path(settings, clip)
            assert path.shape == (settings.num_frames, len(AXES))
            assert path.min() >= 0
            assert path.max() <= 1
            steps = np.diff(path, axis=0)
            moving = AXES.index(clip.axis)
            assert np.ptp(steps[:, moving]) < 1e-12
            assert settings.travel[0] <= abs(path[-1, moving] - path[0, moving]) <= settings.travel[1]
            assert not np.delete(steps, moving, axis=1).any()


def test_opposites_are_each_other_played_backward():
    settings = MotionSettings()
    clips = motion_clips(settings)
    for forward, backward in zip(clips[::2], clips[1::2], strict=True):
        assert OPPOSITE[forward.motion] == backward.motion
        assert (forward.split, forward.picture, forward.number) == (backward.split, backward.picture, backward.number)
        assert (camera_path(settings, forward) == camera_path(settings, backward)[::-1]).all()
    assert (draw(SMALL, "rotate_cw") == draw(SMALL, "rotate_ccw")[::-1]).all()


def test_a_random_frame_says_nothing_about_the_motion():
    """Each coordinate of a random frame, moving or resting, follows one law (two-sample Kolmogorov-Smirnov)."""
    settings = MotionSettings(train_per_picture_motion=120)
    clips = [clip for clip in motion_clips(settings) if clip.split == "train"]
    rng = np.random.default_rng(0)
    frames: dict[str, list[np.ndarray]] = {}
    for clip in clips:
        frames.setdefault(clip.motion, []).append(camera_path(settings, clip)[rng.integers(settings.num_frames)])
    laws = {motion: np.sort(np.array(rows), axis=0) for motion, rows in frames.items()}
    size = len(laws["pan_left"])
    assert size == 1920
    for one, other in itertools.combinations(MOTIONS, 2):
        for axis in range(len(AXES)):
            left, right = laws[one][:, axis], laws[other][:, axis]
            grid = np.concatenate([left, right])
            gap = np.abs(np.searchsorted(left, grid, "right") - np.searchsorted(right, grid, "right")).max() / size
            assert gap < 2.5 * np.sqrt(2 / size), (one, other, AXES[axis])


@pytest.mark.parametrize(
    ("motion", "down", "right"), [("pan_left", 0, 1), ("pan_right", 0, -1), ("pan_up", 1, 0), ("pan_down", -1, 0)]
)
def test_content_moves_against_the_camera(motion: Motion, down: int, right: int):
    # Without tilt the content's shift is exactly along one axis.
    settings = MotionSettings(num_frames=16, tilt_degrees=1e-6)
    frames = draw(settings, motion).mean(-1)
    shift, _, _ = phase_cross_correlation(frames[0], frames[1], upsample_factor=20)
    moved = -shift  # the shift that registers the second frame to the first
    path = camera_path(settings, MotionClip(split="train", picture="gravel", motion=motion, number=0))
    room = (1 - settings.reach) * np.abs(np.diff(path, axis=0)).max()
    ratio = settings.window[1] / settings.window[0]
    expected = room / (settings.window[0] * ratio ** path[0, AXES.index("zoom")]) * settings.size
    np.testing.assert_allclose(moved, [down * expected, right * expected], atol=0.3)


def radial_and_turning_flow(frames: Frames) -> tuple[float, float]:
    """Mean outward and clockwise components of least-squares optical flow over the clip (brightness constancy)."""
    size = frames.shape[1]
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    grey = frames.astype(np.float64).mean(-1)
    grey = (grey[:, ::2, ::2] + grey[:, 1::2, ::2] + grey[:, ::2, 1::2] + grey[:, 1::2, 1::2]) / 4
    y, x = y[::2, ::2], x[::2, ::2]
    found = []
    for before, after in itertools.pairwise(grey):
        gy, gx = np.gradient((before + after) / 2)
        # Unknowns: expansion, clockwise turn (y points down), and a translation.
        columns = [gx * x + gy * y, -gx * y + gy * x, gx, gy]
        solution, *_ = np.linalg.lstsq(np.stack([c.ravel() for c in columns], 1), (before - after).ravel(), rcond=None)
        found.append(solution[:2])
    outward, clockwise = np.mean(found, 0)
    return float(outward), float(clockwise)


@pytest.mark.parametrize("picture", ["astronaut", "coffee", "motorcycle"])
def test_zooms_and_rotations_do_what_they_are_called(picture: str):
    settings = MotionSettings(num_frames=64, size=128)
    flow = {motion: radial_and_turning_flow(draw(settings, motion, picture=picture)) for motion in MOTIONS[4:]}
    for motion, sign in (("zoom_in", 1), ("zoom_out", -1)):
        assert flow[motion][0] * sign > 4 * abs(flow[motion][1])
    for motion, sign in (("rotate_cw", 1), ("rotate_ccw", -1)):
        assert flow[motion][1] * sign > 4 * abs(flow[motion][0])


@pytest.mark.parametrize(
    "settings",
    [
        MotionSettings(size=64, travel=(1.0, 1.0), num_frames=8),
        MotionSettings(size=64, travel=(1.0, 1.0), window=(0.15, 0.25), tilt_degrees=45.0, num_frames=8),
    ],
)
def test_every_pixel_comes_from_inside_the_photograph(settings: MotionSettings):
    """Pillow paints what it does not find black; on an all-white photograph nothing may be."""
    for photograph in PHOTOGRAPHS:
        white = load_photograph(photograph, settings)
        white.paste((255, 255, 255), (0, 0, *white.size))
        for motion in ("pan_left", "pan_down", "zoom_out", "rotate_cw"):
            for number in range(3):
                clip = MotionClip(split="train", picture=photograph.name, motion=motion, number=number)
                assert render_frames(settings, clip, white).min() == 255


def test_every_clip_visibly_moves():
    settings = MotionSettings(size=64, train_per_picture_motion=1, num_unseen_pictures=0)
    images = {photograph.name: load_photograph(photograph, settings) for photograph in PHOTOGRAPHS}
    for clip in motion_clips(settings)[::2]:
        frames = render_frames(settings, clip, images[clip.picture]).astype(np.int16)
        assert np.abs(np.diff(frames, axis=0)).mean() > 1.0, clip.path


def test_the_set_is_real_video_with_two_labels(small_set: Path):
    listed = list_source(small_set / LISTING_NAME)
    clips = motion_clips(SMALL)
    assert {video.path: (video.labels["picture"], video.labels["motion"], video.split) for video in listed.videos} == {
        clip.path: (clip.picture, clip.motion, clip.split) for clip in clips
    }
    with av.open(str(small_set / clips[0].path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == SMALL.fps
    for clip in clips[:8]:
        decoded = decode(small_set / clip.path)
        assert decoded.shape == (8, 64, 64, 3)
        drawn = render_frames(SMALL, clip, load_photograph(photograph_of(clip), SMALL))
        grey = decoded.mean(-1) - drawn.mean(-1)
        assert np.sqrt(np.mean(grey**2)) < 8, "encoding keeps the picture"


def photograph_of(clip: MotionClip):
    return next(photograph for photograph in PHOTOGRAPHS if photograph.name == clip.picture)


def test_the_same_settings_give_the_same_bytes(small_set: Path, tmp_path):
    again = make_motion_set(tmp_path / "again", SMALL, num_workers=1).parent
    names = sorted(path.relative_to(small_set) for path in small_set.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((small_set / name).read_bytes() == (again / name).read_bytes() for name in names)
    other = MotionSettings(num_frames=8, size=64, seed=1)
    clip = motion_clips(SMALL)[0]
    assert (camera_path(other, clip) != camera_path(SMALL, clip)).any()


def test_progress_reaches_the_end(tmp_path):
    settings = MotionSettings(
        num_frames=8, size=32, train_per_picture_motion=1, test_seen_per_picture_motion=0, num_unseen_pictures=21
    )
    steps: list[tuple[int, int]] = []
    listing = make_motion_set(tmp_path, settings, progress=lambda done, total: steps.append((done, total)))
    total = 8 + 21 * 8 * 3
    assert steps == [(done, total) for done in range(2, total + 1, 2)]
    assert len([json.loads(line) for line in listing.read_text().splitlines()]) == total


@pytest.mark.parametrize("num_frames", [8, 128])
def test_lengths_encode_and_decode(tmp_path, num_frames):
    settings = MotionSettings(num_frames=num_frames, size=64)
    encode_clip(tmp_path / "a.mp4", draw(settings, "pan_left"), settings)
    assert len(decode(tmp_path / "a.mp4")) == num_frames


def test_key_frames_are_as_far_apart_as_asked(tmp_path):
    for gop in (1, 10, 24):
        settings = MotionSettings(num_frames=48, size=64, gop=gop)
        encode_clip(tmp_path / f"{gop}.mp4", draw(settings, "pan_left"), settings)
        with av.open(str(tmp_path / f"{gop}.mp4")) as container:
            keys = [frame.key_frame for frame in container.decode(video=0)]
        assert [number for number, is_key in enumerate(keys) if is_key] == list(range(0, 48, gop))


def test_a_camera_can_stand_still():
    settings = MotionSettings(num_frames=8, size=64, travel=(0.0, 0.0))
    for motion in MOTIONS:
        frames = draw(settings, motion)
        assert (frames == frames[0]).all()
    assert (draw(settings, "pan_left")[0] != draw(settings, "zoom_in")[0]).any()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty; name a new one"):
        make_motion_set(tmp_path, SMALL)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 7},
        {"num_frames": 513},
        {"size": 33},
        {"size": 16},
        {"fps": 0},
        {"train_per_picture_motion": -1},
        {"num_unseen_pictures": len(PHOTOGRAPHS)},
        {"window": (0.5, 0.4)},
        {"window": (0.4, 0.9)},
        {"tilt_degrees": 60.0},
        {"travel": (0.5, 1.2)},
        {"travel": (0.0, 0.5)},
        {"crf": 52},
        {"gop": 0},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes)).split("_per_")[0]):
        MotionSettings(**changes)
