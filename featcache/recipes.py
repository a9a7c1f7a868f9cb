"""Recipes: the frozen values that identify what a store holds.

A :class:`SamplingRecipe` belongs to a store and says which clips and boxes were read; a :class:`FeatureRecipe` belongs
to one array and says what was computed from them. Their hashes identify both: reading or extending a store with another
recipe is an error that names the field.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from featcache.errors import ConfigError
from featcache.noise import NoiseRecipe

Layout = Literal["clips", "frames"]
Temporal = Literal["uniform", "uniform_open", "random", "spread", "spread_random", "bank", "imported"]
Spatial = Literal["center", "views", "random_resized", "random_short_side", "center_and_random", "imported"]
ShortVideos = Literal["loop", "clamp"]
Output = Literal["cls", "mean", "tokens", "map", "logits"]
Precision = Literal["float16", "float32", "int8"]
Interpolation = Literal["bilinear", "bicubic"]
PositionForm = Literal["box6", "code7"]
"""How a clip's position in its video is given to a network, see :func:`featcache.data.positions.set_positions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorRecipe:
    """Colour augmentation of random rows, drawn once per row and the same for all its frames.

    The order is: jitter (brightness, contrast, saturation and hue in random order), grey, blur.

    Attributes:
        probability: Probability that a row is jittered.
        brightness: The factor is uniform in ``[max(0, 1 - brightness), 1 + brightness]``.
        contrast: The same for the contrast factor.
        saturation: The same for the saturation factor.
        hue: The shift is uniform in ``[-hue, hue]`` turns of the hue circle; at most 0.5.
        grey_probability: Probability that a row is converted to grey.
        blur_probability: Probability that a row is blurred.
        blur_sigma: Range of the Gaussian's sigma, in pixels of the resized crop.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    probability: float = 0.8
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("probability", "grey_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"sampling.color.{name} is {getattr(self, name)}; it must be in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"sampling.color.{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.hue <= 0.5:
            raise ConfigError(f"sampling.color.hue is {self.hue}; it must be in [0, 0.5]")
        low, high = self.blur_sigma
        if not (0 < low <= high and math.isfinite(high)):
            raise ConfigError(f"sampling.color.blur_sigma is {self.blur_sigma}; it must be an increasing pair above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainViews:
    """Rows of the videos outside of the training splits: fixed views, never mirrored or recoloured.

    Attributes:
        train_splits: Splits whose videos get the recipe's own rows, as do videos without a split; all other videos get
            these views.
        temporal: As in :class:`SamplingRecipe`: ``uniform``, ``uniform_open`` or ``spread`` for clips, ``bank`` for a
            frame bank.
        num_clips: Number of clips per video in time; ignored by ``bank``.
        spatial: ``center`` or ``views``.
        num_crops: Number of boxes per clip or frame; 1 for ``center``.
        crop_fraction: Side of a square box as a fraction of the shorter side.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    train_splits: tuple[str, ...] = ("train",)
    temporal: Literal["uniform", "uniform_open", "spread", "bank"] = "uniform"
    num_clips: int = 5
    spatial: Literal["center", "views"] = "views"
    num_crops: int = 3
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not self.train_splits or not all(self.train_splits):
            raise ConfigError(f"sampling.test.train_splits is {list(self.train_splits)}; name at least one split")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRecipe:
    """Which rows a video gets: the clips (or frames) in time and the boxes in space.

    Rows of one video are ordered time-major: row = temporal index x ``num_crops`` + crop index.

    Attributes:
        layout: ``clips``: a row is a clip of ``num_frames`` frames. ``frames``: a row is one frame (a frame bank).
        temporal: ``uniform``: ``num_clips`` clips whose starts are equally spaced from the first to the last possible
            start. ``uniform_open``: clip i starts at i / ``num_clips`` of the way to the last possible start, which is
            left out (PySlowFast's test clips). ``random``: ``num_clips`` independent uniform starts, seeded by the
            video id. ``spread``: each clip spans the whole video, whatever its length: its frames lie at the same
            place in each of ``num_frames`` equal parts, clip i at (i + 0.5) / ``num_clips`` of a part;
            ``frame_stride``, ``target_fps`` and ``short_videos`` are then ignored. ``spread_random``: the same, at a
            uniformly random place, seeded by the video id. ``bank``: every ``frame_stride``-th frame, each in a row of
            its own (layout ``frames`` only).
            ``imported``: sampled elsewhere, with any number of rows per video; their times are in the row table if they
            are known, and the other temporal fields of this recipe have no meaning.
        num_clips: Number of clips per video in time; ignored by ``bank``.
        num_frames: Number of frames per clip; 1 for ``bank``.
        frame_stride: Distance between neighbouring frames of a clip, or of a bank, in frames at ``target_fps``.
        target_fps: Frame rate at which strides are counted; ``None`` is the video's own mean rate. Positions are times,
            and the frame with the nearest timestamp is taken, so a variable frame rate is respected.
        start_seconds: Where a bank begins, from the first frame; ``None`` for the whole video.
        end_seconds: Where a bank ends (exclusive), from the first frame; ``None`` for the whole video.
        short_videos: A clip that is longer than the video continues at the video's beginning (``loop``) or repeats the
            last frame (``clamp``).
        spatial: ``center``: one centred square. ``views``: ``num_crops`` squares spread over the longer side (3 =
            left, centre, right). ``random_resized``: ``num_crops`` random boxes of area ``scale`` and aspect ``ratio``.
            ``random_short_side``: ``num_crops`` random squares of ``side_range``. ``center_and_random``: the centred
            square, plain (neither mirrored nor recoloured), then ``num_crops - 1`` boxes of ``box_fraction`` at random
            places. In a frame bank a random crop is drawn once per video: all frames share box, flip and colours.
            ``imported``: sampled elsewhere; the boxes are in the row table if they are known.
        num_crops: Number of boxes per clip or frame; 1 for ``center``.
        crop_fraction: Side of a square box as a fraction of the shorter side (224/256 = 0.875).
        scale: Area range of ``random_resized``, as a fraction of the frame.
        ratio: Aspect range (width / height) of ``random_resized``.
        flip_probability: Probability that a row is mirrored left to right.
        seed: Seed of all random draws, together with the video id.
        decoder: Name of the decoder that produced the frames.
        side_range: For ``random_short_side``: range of the square's side as a fraction of the shorter side; the inverse
            of the fraction is uniform. A crop of 224 out of a short side uniform in [256, 320] is (0.7, 0.875).
        box_fraction: For ``center_and_random``: height and width of the random boxes as fractions of the frame's. A
            crop of 224 out of a frame resized to a height of 256 and a width of 320 is (0.875, 0.7).
        color: Colour augmentation of the rows; ``None``: none.
        test: Views of the videos outside of the training splits; ``None``: all videos are sampled alike.
        both_views: Every video has both the recipe's own rows and then the rows of ``test``, so that any split can be
            read later; otherwise it has those of its split alone.
        noise: Noise on the frames of all videos; ``None``: none.
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
    side_range: tuple[float, float] | None = None
    box_fraction: tuple[float, float] | None = None
    color: ColorRecipe | None = None
    test: PlainViews | None = None
    both_views: bool = False
    noise: NoiseRecipe | None = None

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_frames", "frame_stride", "num_crops"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sampling.{name} is {getattr(self, name)}; it must be at least 1")
        if self.temporal != "imported" and (self.layout == "frames") != (self.temporal == "bank"):
            raise ConfigError(
                f"sampling.layout {self.layout!r} does not go with sampling.temporal {self.temporal!r}; "
                "a frame bank is layout 'frames' with temporal 'bank', clips are 'uniform' or 'random'"
            )
        if self.temporal == "bank" and self.num_frames != 1:
            raise ConfigError(f"sampling.num_frames is {self.num_frames}; a frame bank stores 1 frame per row")
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
        for name, spatial in (("side_range", "random_short_side"), ("box_fraction", "center_and_random")):
            value = getattr(self, name)
            if (value is not None) != (self.spatial == spatial):
                raise ConfigError(
                    f"sampling.{name} is {value} with sampling.spatial {self.spatial!r}; "
                    f"it belongs to {spatial!r}, which needs it"
                )
            if value is not None and not all(0 < fraction <= 1 for fraction in value):
                raise ConfigError(f"sampling.{name} is {value}; both must be in (0, 1]")
        if self.side_range is not None and self.side_range[0] > self.side_range[1]:
            raise ConfigError(f"sampling.side_range is {self.side_range}; it must be an increasing pair")
        if self.test is not None:
            if (self.test.temporal == "bank") != (self.temporal == "bank"):
                raise ConfigError(
                    f"sampling.test.temporal {self.test.temporal!r} does not go with sampling.temporal "
                    f"{self.temporal!r}; a store is a frame bank for all its videos or for none"
                )
            self._plain(self.test)  # its counts and fractions are checked like the recipe's own
        elif self.both_views:
            raise ConfigError("sampling.both_views needs sampling.test, which says what the other views are; give both")

    @property
    def is_imported(self) -> bool:
        """Whether the rows were sampled elsewhere, so that no video can be sampled with this recipe."""
        return "imported" in (self.temporal, self.spatial)

    def for_split(self, split: str) -> Self:
        """The recipe for a video of the given split, with the part ``test`` applied or dropped.

        Args:
            split: Split of the video; empty if it has none.
        """
        if self.test is None:
            return self
        if self.has_test_views(split):
            return self._plain(self.test)
        return dataclasses.replace(self, test=None, both_views=False)

    def has_test_views(self, split: str) -> bool:
        """Whether a video of the given split is read by the views of ``test``."""
        return self.test is not None and bool(split) and split not in self.test.train_splits

    def stored(self, split: str) -> tuple[Self, ...]:
        """The recipes of the rows that a store holds of a video of the given split, in the order of the rows."""
        if self.test is None or not self.both_views:
            return (self.for_split(split),)
        return (self.for_split(""), self._plain(self.test))

    def _plain(self, views: PlainViews) -> Self:
        return dataclasses.replace(
            self,
            temporal=views.temporal,
            num_clips=views.num_clips,
            spatial=views.spatial,
            num_crops=views.num_crops,
            crop_fraction=views.crop_fraction,
            flip_probability=0.0,
            side_range=None,
            box_fraction=None,
            color=None,
            test=None,
            both_views=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRecipe:
    """What one array holds: backbone, weights, layer, pooling, preprocessing and storage precision.

    Attributes:
        backbone: Registry name, e.g. ``clip-l14`` or ``timm/vit_small_patch16_224.dino``.
        weights_hash: Hash of the loaded tensors (``sha256:…``), whatever file they came in.
        layer: Layer name of the backbone, resolved (never ``last``); ``classifier`` for logits.
        output: ``cls``, ``mean`` (over all positions of the map), ``tokens`` ([N, C], class token first if there is
            one), ``map`` ([h, w, C]) or ``logits`` (of the backbone's classifier, [classes]).
        average_frames: Whether a clip's frames are averaged into one record; only for image backbones on clips.
        grid: Side of the map after adaptive average pooling; ``None`` keeps the backbone's own.
        channels: Number of channels after adaptive average pooling of neighbours; ``None`` keeps all.
        input_size: Side in pixels to which a box is resized.
        interpolation: Filter of that resize (antialiased, on uint8).
        mean: Channel means, subtracted from RGB in [0, 1].
        std: Channel standard deviations, by which the result is divided.
        precision: Storage dtype; int8 has one scale per channel.
        compute: Dtype of the forward pass.
        enlarge: Factor by which the normalised pixels are enlarged (bilinearly) before the forward pass, so that the
            backbone's input has ``enlarge * input_size`` pixels a side; ``None``: as they are.
        classes: Class names of logits, in order; ``None`` for other outputs, and for imported logits whose classes are
            unknown.
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
    enlarge: int | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.output != "logits":
            raise ConfigError(f"feature classes are given with output {self.output!r}; they are the names of logits")
        if self.output == "logits" and self.channels is not None:
            raise ConfigError(f"feature channels {self.channels} would average logits of other classes; remove it")
        for name in ("grid", "channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"feature {name} is {value}; it must be at least 1")
        if self.grid is not None and self.output != "map":
            raise ConfigError(f"feature grid {self.grid} needs output 'map', not {self.output!r}")
        if self.input_size < 1:
            raise ConfigError(f"feature input_size is {self.input_size}; it must be at least 1")
        if self.enlarge is not None and self.enlarge < 2:
            raise ConfigError(f"feature enlarge is {self.enlarge}; it must be at least 2, or null")

    @property
    def backbone_size(self) -> int:
        """Side of the backbone's input in pixels."""
        return self.input_size * (self.enlarge or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """Shape and dtype of one stored row.

    Attributes:
        shape: E.g. ``(768,)``, ``(7, 7, 768)``, ``(8, 14, 14, 768)``.
        axes: One name per axis, e.g. ``("t", "h", "w", "c")`` or ``("n", "c")``.
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
        """Bytes per value."""
        return {"float16": 2, "float32": 4, "int8": 1}[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes per row."""
        return math.prod(self.shape) * self.itemsize


Recipe = SamplingRecipe | FeatureRecipe

_PARTS = {"color": ColorRecipe, "test": PlainViews, "noise": NoiseRecipe}
# Written only if they are used, so that recipes without them keep their hash.
_UNUSED: dict[str, Any] = {
    **dict.fromkeys(("side_range", "box_fraction", "enlarge", "classes", *_PARTS)),
    "both_views": False,
}


def to_dict(value: Recipe | RecordSpec) -> dict[str, Any]:
    """A JSON-ready dict with tuples as lists; parts of a recipe that are not used are left out."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return {name: member for name, member in plain.items() if not (name in _UNUSED and member == _UNUSED[name])}


def from_dict(kind: type[Any], data: dict[str, Any]) -> Any:
    """Rebuild a recipe or record spec written by :func:`to_dict`; unknown fields are an error."""
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - names):
        raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}; it was written by a newer featcache, upgrade")
    return kind(**{key: _from_json(key, value) for key, value in data.items()})


def _from_json(name: str, value: Any) -> Any:
    if name in _PARTS and isinstance(value, dict):
        return from_dict(_PARTS[name], value)
    return tuple(value) if isinstance(value, list) else value


def recipe_hash(recipe: Recipe) -> str:
    """Identity of a recipe: 16 hex digits over its canonical JSON."""
    text = json.dumps(to_dict(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(mine: Recipe, theirs: Recipe) -> list[tuple[str, Any, Any]]:
    """The fields in which two recipes differ, each with both values."""
    fields = [field.name for field in dataclasses.fields(mine)]
    pairs = ((name, getattr(mine, name), getattr(theirs, name)) for name in fields)
    return [(name, left, right) for name, left, right in pairs if left != right]


def first_difference(mine: Recipe, theirs: Recipe) -> str | None:
    """The first field in which two recipes differ, as ``"field (mine against theirs)"``, or ``None``."""
    found = differences(mine, theirs)
    return f"{found[0][0]} ({found[0][1]!r} against {found[0][2]!r})" if found else None
