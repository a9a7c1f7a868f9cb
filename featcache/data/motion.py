"""The motion set: short H.264 clips of known motion, made from photographs in scikit-image and scikit-learn.

A virtual camera moves over a photograph in one of eight ways. A clip has two labels, ``picture`` and ``motion``, and
the set is built so that appearance says nothing about motion:

* Every photograph appears equally often in every motion of every split.
* A camera has four coordinates: across, down, zoom and tilt. One of them moves through the clip's frames at constant
  speed; each of the others stays at a value that *some* frame of such a move would have. So a random frame of a clip
  has the same distribution for every motion. (The first frame is not random: to someone who knows the photograph, the
  camera's starting point shows in which directions it has room to move. This does not apply to ``test_unseen``.)
* Opposite motions come in pairs: the same frames, played forward and backward.

Motions are the camera's: ``pan_left`` moves the window left over the photograph (its content to the right), ``zoom_in``
shrinks the window (the content grows), ``rotate_cw`` turns the *content* clockwise. Pans follow the photograph's axes,
from which the frame is tilted by at most ``tilt_degrees``.
"""

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter
from PIL import Image

from featcache.errors import ConfigError
from featcache.seeding import rng_for

Motion = Literal["pan_left", "pan_right", "pan_up", "pan_down", "zoom_in", "zoom_out", "rotate_cw", "rotate_ccw"]
Split = Literal["train", "test_seen", "test_unseen"]
Axis = Literal["across", "down", "zoom", "tilt"]
Frames = npt.NDArray[np.uint8]

MOTIONS: tuple[Motion, ...] = get_args(Motion)
AXES: tuple[Axis, ...] = get_args(Axis)
LISTING_NAME = "motion.jsonl"

# The coordinate that moves, with the motions for increasing and for decreasing values.
PAIRS: dict[Axis, tuple[Motion, Motion]] = {
    "across": ("pan_right", "pan_left"),
    "down": ("pan_down", "pan_up"),
    "zoom": ("zoom_out", "zoom_in"),
    "tilt": ("rotate_ccw", "rotate_cw"),
}

# The largest window has this many photograph pixels per frame pixel, few enough to avoid aliasing without a filter.
_OVERSAMPLING = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph in an installed package.

    Attributes:
        name: Its ``picture`` label.
        package: Package that contains the file.
        file: Path inside the package.
        part: Left, top, right, bottom of the part with texture, as fractions of width and height.
    """

    name: str
    package: str
    file: str
    part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def _of_skimage(name: str, file: str, part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Photograph:
    return Photograph(name=name, package="skimage", file=f"data/{file}", part=part)


PHOTOGRAPHS: tuple[Photograph, ...] = (
    _of_skimage("astronaut", "astronaut.png"),
    _of_skimage("brick", "brick.png"),
    _of_skimage("camera", "camera.png"),
    _of_skimage("cat", "chelsea.png"),
    _of_skimage("cell", "cell.png", (0.15, 0.2, 1.0, 0.9)),
    Photograph(name="china", package="sklearn", file="datasets/images/china.jpg", part=(0.0, 0.15, 0.8, 1.0)),
    _of_skimage("coffee", "coffee.png"),
    _of_skimage("coins", "coins.png"),
    _of_skimage("color_wheel", "color.png", (0.05, 0.05, 0.95, 0.95)),
    Photograph(name="flower", package="sklearn", file="datasets/images/flower.jpg", part=(0.2, 0.1, 0.85, 1.0)),
    _of_skimage("grass", "grass.png"),
    _of_skimage("gravel", "gravel.png"),
    _of_skimage("horse", "horse.png", (0.05, 0.05, 0.97, 0.95)),
    _of_skimage("hubble", "hubble_deep_field.jpg"),
    _of_skimage("logo", "logo.png", (0.1, 0.1, 0.9, 0.9)),
    _of_skimage("moon", "moon.png"),
    _of_skimage("motorcycle", "motorcycle_left.png"),
    _of_skimage("page", "page.png", (0.0, 0.0, 1.0, 0.8)),
    _of_skimage("retina", "retina.jpg", (0.15, 0.15, 0.85, 0.85)),
    _of_skimage("rocket", "rocket.jpg", (0.0, 0.4, 1.0, 1.0)),
    _of_skimage("text", "text.png"),
    _of_skimage("tissue", "ihc.png"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionSettings:
    """Settings of the motion set.

    A clip covers the fraction ``travel`` of the range that the photograph allows, however many frames it has, and never
    reverses: the speed per frame is inversely proportional to ``num_frames``. At 160 pixels a pan moves 3 to 9 pixels
    per frame at 12 frames, 0.3 to 0.75 at 128. Playback-rate tasks need long clips that are also fast: a narrow
    ``window`` of (0.15, 0.25) leaves room for 4 to 10 pixels per frame at 64 frames, 2 to 5 at 128. They also need a
    ``gop`` of 1: what a codec changes at its key frames tells the rate, even where the camera stands still.

    Attributes:
        num_frames: Number of frames per clip, 8 to 512.
        size: Side of the square frame in pixels, even.
        fps: Frame rate written to the file.
        seed: Seed of all draws.
        train_per_picture_motion: Number of training clips of each seen photograph in each motion.
        test_seen_per_picture_motion: Number of test clips of each seen photograph in each motion.
        test_unseen_per_picture_motion: Number of test clips of each unseen photograph in each motion.
        num_unseen_pictures: Number of photographs kept out of training.
        window: Smallest and largest side of the camera's window, as fractions of the photograph's shorter side.
        tilt_degrees: Largest tilt to either side.
        travel: Smallest and largest fraction of a coordinate's range that a clip moves through; (0, 0) is a camera that
            stands still.
        crf: Quality of the H.264 encoder; lower is better.
        gop: Largest distance of key frames; 1 makes every frame one, so that no frame is predicted from another.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_frames: int = 8
    size: int = 160
    fps: int = 12
    seed: int = 0
    train_per_picture_motion: int = 5
    test_seen_per_picture_motion: int = 1
    test_unseen_per_picture_motion: int = 3
    num_unseen_pictures: int = 6
    window: tuple[float, float] = (0.35, 0.6)
    tilt_degrees: float = 20.0
    travel: tuple[float, float] = (0.6, 0.9)
    crf: int = 20
    gop: int = 24

    def __post_init__(self) -> None:
        if not 8 <= self.num_frames <= 512:
            raise ConfigError(f"motion set num_frames is {self.num_frames}; it must be 8 to 512")
        if self.size < 32 or self.size % 2:
            raise ConfigError(f"motion set size is {self.size}; it must be even and at least 32")
        if self.fps < 1:
            raise ConfigError(f"motion set fps is {self.fps}; it must be at least 1")
        for name in ("train_per_picture_motion", "test_seen_per_picture_motion", "test_unseen_per_picture_motion"):
            if getattr(self, name) < 0:
                raise ConfigError(f"motion set {name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.num_unseen_pictures < len(PHOTOGRAPHS):
            raise ConfigError(
                f"motion set num_unseen_pictures is {self.num_unseen_pictures}; "
                f"it must be 0 to {len(PHOTOGRAPHS) - 1}, so that a photograph is left to train on"
            )
        if not 0 < self.window[0] < self.window[1] or not 0 < self.tilt_degrees <= 45:
            raise ConfigError(
                f"motion set window is {self.window} and tilt_degrees {self.tilt_degrees}; "
                "give an increasing pair above 0 and a tilt in (0, 45]"
            )
        if self.reach >= 0.95:
            raise ConfigError(
                f"motion set window {self.window} tilted by {self.tilt_degrees} degrees leaves no room to pan; "
                "make the window or the tilt smaller"
            )
        if self.travel != (0, 0) and not 0 < self.travel[0] <= self.travel[1] <= 1:
            raise ConfigError(
                f"motion set travel is {self.travel}; it must be an increasing pair in (0, 1], "
                "or (0, 0) for a camera that stands still"
            )
        if not 0 <= self.crf <= 51:
            raise ConfigError(f"motion set crf is {self.crf}; it must be 0 to 51")
        if self.gop < 1:
            raise ConfigError(f"motion set gop is {self.gop}; it must be at least 1, for key frames alone")

    @property
    def reach(self) -> float:
        """Side of the upright box around the largest window at the largest tilt, as a multiple of the shorter side."""
        tilt = math.radians(self.tilt_degrees)
        return self.window[1] * (math.cos(tilt) + math.sin(tilt))


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionClip:
    """One clip of the set; its opposite has the same key but the opposite motion.

    Attributes:
        split: The clip's split.
        picture: Name of the photograph.
        motion: Motion of the camera.
        number: Ordinal among the clips of its split, picture and motion.
    """

    split: Split
    picture: str
    motion: Motion
    number: int

    @property
    def path(self) -> str:
        """Path relative to the set's folder."""
        return f"{self.split}/{self.motion}/{self.picture}_{self.number:03d}.mp4"

    @property
    def axis(self) -> Axis:
        """The coordinate that moves."""
        return next(axis for axis, pair in PAIRS.items() if self.motion in pair)


def motion_clips(settings: MotionSettings) -> list[MotionClip]:
    """All clips of the set, by split, picture, number and pair of motions."""
    shuffled = rng_for(settings.seed, "motion", "unseen").permutation(len(PHOTOGRAPHS))
    unseen = {PHOTOGRAPHS[i].name for i in shuffled[: settings.num_unseen_pictures]}
    counts: dict[Split, int] = {
        "train": settings.train_per_picture_motion,
        "test_seen": settings.test_seen_per_picture_motion,
        "test_unseen": settings.test_unseen_per_picture_motion,
    }
    return [
        MotionClip(split=split, picture=photograph.name, motion=motion, number=number)
        for split, count in counts.items()
        for photograph in PHOTOGRAPHS
        if (photograph.name in unseen) == (split == "test_unseen")
        for number in range(count)
        for motion in itertools.chain.from_iterable(PAIRS.values())
    ]


def camera_path(settings: MotionSettings, clip: MotionClip) -> npt.NDArray[np.float64]:
    """Position of the camera in each frame.

    Returns:
        float64 [num_frames, 4]: across, down, zoom and tilt, each in [0, 1] of its range. Exactly one changes.
    """
    rng = _rng_of_pair(settings, clip, "path")
    travel = rng.uniform(*settings.travel)
    begin = rng.uniform(0.0, 1.0 - travel, len(AXES))
    # A coordinate at rest takes the value of a random frame of a move, so that its marginal distribution is the same.
    steps = np.tile(rng.integers(settings.num_frames, size=len(AXES)), (settings.num_frames, 1))
    steps[:, AXES.index(clip.axis)] = np.arange(settings.num_frames)
    path: npt.NDArray[np.float64] = begin + travel * steps / (settings.num_frames - 1)
    return path if clip.motion == PAIRS[clip.axis][0] else path[::-1]


def load_photograph(photograph: Photograph, settings: MotionSettings) -> Image.Image:
    """The textured part of a photograph as RGB, resized once so that the largest window needs no filtering.

    Its shorter side is ``1.25 * size / window[1]`` pixels.
    """
    with resources.as_file(resources.files(photograph.package) / photograph.file) as path, Image.open(path) as opened:
        image = opened.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    left, top, right, bottom = photograph.part
    part = paper.convert("RGB").crop(
        (
            round(left * image.width),
            round(top * image.height),
            round(right * image.width),
            round(bottom * image.height),
        )
    )
    factor = _OVERSAMPLING * settings.size / settings.window[1] / min(part.size)
    return part.resize((round(part.width * factor), round(part.height * factor)), Image.Resampling.LANCZOS)


def render_frames(settings: MotionSettings, clip: MotionClip, image: Image.Image) -> Frames:
    """Draw a clip: uint8 RGB [num_frames, size, size, 3]; every pixel comes from inside the photograph.

    Args:
        settings: Size, window and tilt.
        clip: The clip to draw.
        image: Its photograph from :func:`load_photograph`.
    """
    side = min(image.size)
    room = (1.0 - settings.reach) * side  # the range of a pan, the same in both directions
    slack = np.array([image.width - side, image.height - side])
    place = _rng_of_pair(settings, clip, "place").random(2)
    corner = place * slack + settings.reach * side / 2
    frames = np.empty((settings.num_frames, settings.size, settings.size, 3), np.uint8)
    for frame, (across, down, zoom, tilt) in zip(frames, camera_path(settings, clip), strict=True):
        x, y = corner + room * np.array([across, down])
        window = side * settings.window[0] * (settings.window[1] / settings.window[0]) ** zoom
        angle = math.radians(settings.tilt_degrees) * (2 * tilt - 1)
        a, b = window / settings.size * math.cos(angle), -window / settings.size * math.sin(angle)
        half = settings.size / 2
        coefficients = (a, b, x - half * (a + b), -b, a, y - half * (a - b))
        frame_size = (settings.size, settings.size)
        frame[:] = np.asarray(
            image.transform(frame_size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        )
    return frames


def encode_clip(path: Path, frames: Frames, settings: MotionSettings) -> None:
    """Write frames, uint8 RGB [T, S, S, 3], as H.264 in mp4; the same frames give the same bytes."""
    reformatter = VideoReformatter()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(settings.fps))
        stream.width = stream.height = settings.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        stream.codec_context.gop_size = settings.gop
        # x264's macroblock tree reads memory it has not written, so with it bytes differ from run to run.
        stream.options = {"preset": "veryfast", "crf": str(settings.crf), "x264-params": "mbtree=0"}
        for frame in frames:
            picture = reformatter.reformat(av.VideoFrame.from_ndarray(frame, format="rgb24"), format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def remove_motion_set(out: Path, settings: MotionSettings) -> None:
    """Remove a motion set, whole or not; a folder that holds any other file is left as it is."""
    ours = {out / clip.path for clip in motion_clips(settings)} | {out / LISTING_NAME}
    if out.is_dir() and all(path in ours for path in out.rglob("*") if not path.is_dir()):
        shutil.rmtree(out)


def make_motion_set(
    out: Path,
    settings: MotionSettings,
    *,
    num_workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the set's videos and its listing ``motion.jsonl`` for ``scan``; the bytes depend only on the settings.

    Args:
        out: A new or empty folder.
        settings: Settings of the set.
        num_workers: Number of threads; drawing and encoding release the interpreter's lock.
        progress: Called with (clips done, clips in total).

    Returns:
        Path of the listing: one row per clip with ``path``, ``split``, ``label.picture``, ``label.motion``.

    Raises:
        ConfigError: The folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"folder {out} for the motion set is not empty; name a new one or delete it")
    clips = motion_clips(settings)
    for folder in {(out / clip.path).parent for clip in clips} | {out}:
        folder.mkdir(parents=True, exist_ok=True)
    images = {photograph.name: load_photograph(photograph, settings) for photograph in PHOTOGRAPHS}

    def make_pair(forward: MotionClip, backward: MotionClip) -> None:
        frames = render_frames(settings, forward, images[forward.picture])
        encode_clip(out / forward.path, frames, settings)
        encode_clip(out / backward.path, frames[::-1], settings)

    with ThreadPoolExecutor(num_workers) as threads:
        for done, _ in enumerate(threads.map(make_pair, clips[::2], clips[1::2]), start=1):
            if progress is not None:
                progress(2 * done, len(clips))
    listing = out / LISTING_NAME
    listing.write_text("".join(f"{line}\n" for line in _listing_lines(clips)), encoding="utf-8")
    return listing


def _rng_of_pair(settings: MotionSettings, clip: MotionClip, purpose: str) -> np.random.Generator:
    """Random generator of the draws that a clip shares with its opposite."""
    return rng_for(settings.seed, "motion", purpose, clip.split, clip.picture, clip.axis, clip.number)


def _listing_lines(clips: list[MotionClip]) -> Iterator[str]:
    for clip in sorted(clips, key=lambda clip: clip.path):
        row = {"path": clip.path, "split": clip.split, "label.picture": clip.picture, "label.motion": clip.motion}
        yield json.dumps(row)
