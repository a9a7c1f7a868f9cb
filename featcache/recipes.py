"""Recipes: the frozen values that identify what a store holds.

A :class:`SamplingRecipe` belongs to a store and says which clips and boxes were read; a :class:`FeatureRecipe` belongs
to one array and says what was computed from them. Their hashes are identity: reading or extending with another recipe
is an error that names the field.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from featcache.errors import ConfigError

Layout = Literal["clips", "frames"]
Temporal = Literal["uniform", "random", "bank"]
Spatial = Literal["center", "views", "random_resized"]
ShortVideos = Literal["loop", "clamp"]
Output = Literal["cls", "mean", "tokens", "map"]
Precision = Literal["float16", "float32", "int8"]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRecipe:
    """Which rows a video gets: the clips (or frames) in time and the boxes in space.

    Rows of one video are ordered time-major: row = temporal index x ``num_crops`` + crop index.

    Attributes:
        layout: ``clips``: a row is a clip of ``num_frames`` frames. ``frames``: a row is one frame (a frame bank).
        temporal: ``uniform``: ``num_clips`` clips whose starts are equally spaced from the first to the last possible
            start. ``random``: ``num_clips`` independent uniform starts, seeded by the video id. ``bank``: every
            ``frame_stride``-th frame, each its own row (layout ``frames`` only).
        num_clips: Temporal clips a video; ignored by ``bank``.
        num_frames: Frames a clip; 1 for ``bank``.
        frame_stride: Distance of neighbouring frames of a clip, or of a bank, in frames at ``target_fps``.
        target_fps: Frame rate at which strides are counted; ``None`` is the video's own mean rate. Positions are times,
            and a frame is the one whose timestamp is nearest, so variable frame rate is honoured.
        start_seconds: Where a bank begins, from the first frame; ``None`` for the whole video.
        end_seconds: Where a bank ends (exclusive), from the first frame; ``None`` for the whole video.
        short_videos: A clip that is longer than the video wraps to its beginning (``loop``) or repeats the last frame
            (``clamp``).
        spatial: ``center``: one centred square. ``views``: ``num_crops`` squares spread over the longer side (3 =
            left, centre, right). ``random_resized``: ``num_crops`` random boxes of area ``scale`` and aspect ``ratio``.
        num_crops: Boxes a clip or frame; 1 for ``center``.
        crop_fraction: Side of a square box as a fraction of the shorter side (224/256 = 0.875).
        scale: Area range of ``random_resized``, as a fraction of the frame.
        ratio: Aspect range (width / height) of ``random_resized``.
        flip_probability: Chance that a row is mirrored left to right.
        seed: Seed of all random draws, together with the video id.
        decoder: Which decoder produced the frames.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    layout: Layout = "clips"
    temporal: Temporal = "uniform"
    num_clips: int = 4
    num_frames: int = 8
    frame_stride: int = 4
    target_fps: float | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    short_videos: ShortVideos = "loop"
    spatial: Spatial = "center"
    num_crops: int = 1
    crop_fraction: float = 0.875
    scale: tuple[float, float] = (0.2, 0.766)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip_probability: float = 0.0
    seed: int = 0
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_frames", "frame_stride", "num_crops"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sampling.{name} is {getattr(self, name)}; it must be at least 1")
        if (self.layout == "frames") != (self.temporal == "bank"):
            raise ConfigError(
                f"sampling.layout {self.layout!r} does not go with sampling.temporal {self.temporal!r}; "
                "a frame bank is layout 'frames' with temporal 'bank', clips are 'uniform' or 'random'"
            )
        if self.temporal == "bank" and self.num_frames != 1:
            raise ConfigError(f"sampling.num_frames is {self.num_frames}; a frame bank stores 1 frame a row")
        if self.spatial == "center" and self.num_crops != 1:
            raise ConfigError(f"sampling.num_crops is {self.num_crops}; spatial 'center' has 1, use 'views' for more")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"sampling.crop_fraction is {self.crop_fraction}; it must be in (0, 1]")
        if not 0 <= self.flip_probability <= 1:
            raise ConfigError(f"sampling.flip_probability is {self.flip_probability}; it must be in [0, 1]")
        if self.target_fps is not None and not (math.isfinite(self.target_fps) and self.target_fps > 0):
            raise ConfigError(f"sampling.target_fps is {self.target_fps}; it must be positive")
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ConfigError(f"sampling.{name} is {(low, high)}; it must be an increasing pair above 0")
        if self.scale[1] > 1:
            raise ConfigError(f"sampling.scale is {self.scale}; a box cannot be larger than the frame")
        start, end = self.start_seconds or 0.0, self.end_seconds
        if self.temporal != "bank" and (self.start_seconds is not None or end is not None):
            raise ConfigError("sampling.start_seconds and end_seconds belong to temporal 'bank'; remove them")
        if start < 0 or (end is not None and end <= start):
            raise ConfigError(f"sampling window [{start}, {end}) seconds is empty; end must be after start")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRecipe:
    """What one array holds: backbone, weights, layer, pooling, preprocessing and storage precision.

    Attributes:
        backbone: Registry name, e.g. ``clip-l14`` or ``timm/vit_small_patch16_224.dino``.
        weights_hash: Hash of the loaded tensors (``sha256:…``), whatever file they came in.
        layer: Layer name of the backbone, resolved (never ``last``).
        output: ``cls``, ``mean`` (over all positions of the map), ``tokens`` ([N, C], class token first if there is
            one) or ``map`` ([h, w, C]).
        average_frames: Whether a clip's frames are averaged into one record; image backbones on clips only.
        grid: Side of the adaptively average-pooled map; ``None`` keeps the backbone's own.
        channels: Channels after adaptive average pooling of neighbours; ``None`` keeps all.
        input_size: Side in pixels to which a box is resized.
        interpolation: Filter of that resize (antialiased, on uint8).
        mean: Channel means subtracted from RGB in [0, 1].
        std: Channel deviations divided by.
        precision: Storage dtype; int8 carries one scale a channel.
        compute: Dtype of the forward pass.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    backbone: str
    weights_hash: str
    layer: str
    output: Output = "mean"
    average_frames: bool = False
    grid: int | None = None
    channels: int | None = None
    input_size: int = 224
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    precision: Precision = "float16"
    compute: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("grid", "channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"feature {name} is {value}; it must be at least 1")
        if self.grid is not None and self.output != "map":
            raise ConfigError(f"feature grid {self.grid} needs output 'map', not {self.output!r}")
        if self.input_size < 1:
            raise ConfigError(f"feature input_size is {self.input_size}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """Shape and dtype of one stored row.

    Attributes:
        shape: E.g. ``(768,)``, ``(7, 7, 768)``, ``(8, 14, 14, 768)``.
        axes: One name an axis, e.g. ``("t", "h", "w", "c")`` or ``("n", "c")``.
        dtype: ``float16``, ``float32`` or ``int8``.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: Precision

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), f"axes {self.axes} do not fit shape {self.shape}"
        assert all(size > 0 for size in self.shape), f"empty record shape {self.shape}"

    @property
    def itemsize(self) -> int:
        """Bytes a value."""
        return {"float16": 2, "float32": 4, "int8": 1}[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes a row."""
        return math.prod(self.shape) * self.itemsize


Recipe = SamplingRecipe | FeatureRecipe


def to_dict(value: Recipe | RecordSpec) -> dict[str, Any]:
    """A JSON-ready dict with tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return plain


def from_dict(kind: type[Any], data: dict[str, Any]) -> Any:
    """Rebuild a recipe or record spec written by :func:`to_dict`; unknown fields are an error."""
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - names):
        raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}; it was written by a newer featcache, upgrade")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def recipe_hash(recipe: Recipe) -> str:
    """Identity of a recipe: 16 hex digits over its canonical JSON."""
    text = json.dumps(to_dict(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def first_difference(mine: Recipe, theirs: Recipe) -> str | None:
    """The first field in which two recipes differ, as ``"field (mine, theirs)"``, or ``None``."""
    for field in dataclasses.fields(mine):
        left, right = getattr(mine, field.name), getattr(theirs, field.name)
        if left != right:
            return f"{field.name} ({left!r} against {right!r})"
    return None
