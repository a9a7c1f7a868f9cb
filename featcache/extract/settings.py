"""Settings of ``extract``: the source of the videos, the rows to read, the features to store, and the machine."""

import math
import re
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.data.selection import SourceSettings
from featcache.data.types import MAX_GIGAPIXELS
from featcache.errors import ConfigError
from featcache.machine import Matmul
from featcache.noise import NoiseRecipe
from featcache.recipes import (
    ColorRecipe,
    Interpolation,
    Layout,
    Output,
    PlainViews,
    Precision,
    SamplingRecipe,
    ShortVideos,
    Spatial,
    Temporal,
)
from featcache.store.plan import MAX_ENCODE_BATCH, MAX_PLANNED_ROWS, MAX_THREADS

FileFormat = Literal["zarr", "hdf5"]


class SamplingSettings(Settings):
    """Rows that a video gets; see ``SamplingRecipe``. Null is filled from the store or else from the first backbone."""

    layout: Layout = "clips"
    """``clips``: a row is a clip. ``frames``: a row is one frame of a frame bank."""
    temporal: Temporal | None = None
    """``uniform``, ``uniform_open``, ``random``, ``spread``, ``spread_random`` or ``bank``; null: ``uniform`` for
    clips, ``bank`` for frames."""
    num_clips: int = 4
    """Number of clips per video in time."""
    num_frames: int | None = None
    """Number of frames per clip; null: the backbone's, or 8 for an image backbone."""
    frame_stride: int | None = None
    """Distance between neighbouring frames; null: the backbone's, or 4 for an image backbone on clips, 1 for a bank."""
    target_fps: float | None = None
    """Frame rate at which strides are counted; null: the video's own."""
    start_seconds: float | None = None
    """Time at which a bank begins, in seconds."""
    end_seconds: float | None = None
    """Time at which a bank ends, in seconds."""
    short_videos: ShortVideos = "loop"
    """How a clip longer than its video is filled: ``loop`` (start again) or ``clamp`` (repeat the last frame)."""
    spatial: Spatial | None = None
    """``center``, ``views``, ``random_resized``, ``random_short_side`` or ``center_and_random``; null: ``center`` for
    one crop, ``views`` for more."""
    num_crops: int = 1
    """Number of boxes per clip or frame."""
    crop_fraction: float | None = None
    """Side of a square box as a fraction of the shorter side; null: the backbone's."""
    scale: tuple[float, float] = (0.2, 0.766)
    """Area range of ``random_resized``."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect range of ``random_resized``."""
    flip_probability: float = 0.0
    """Probability that a row is mirrored."""
    seed: int = 0
    """Seed of all random draws."""
    decoder: str = "pyav"
    """Decoder: ``pyav`` (frame-exact), ``torchcodec`` or ``decord``."""
    side_range: tuple[float, float] | None = None
    """Side of ``random_short_side`` boxes as a fraction of the shorter side; null: 224 out of 256 to 320."""
    box_fraction: tuple[float, float] | None = None
    """Height and width of ``center_and_random`` boxes as fractions of the frame's; null: 224 out of 256 and 320."""
    color: ColorRecipe | None = None
    """Colour augmentation of the rows; null: none."""
    test: PlainViews | None = None
    """Views of videos outside of the training splits; null: all videos are sampled alike."""
    both_views: bool = False
    """Store both kinds of views of every video, those of training and those of ``test``, so that any column of splits
    can be used later."""
    noise: NoiseRecipe | None = None
    """Noise on the frames of all videos, e.g. ``{kind: gaussian, severity: 3}``; null: none."""

    def resolve(
        self,
        *,
        num_frames: int,
        frame_stride: int,
        crop_fraction: float,
        temporal: Temporal = "uniform",
        stored: SamplingRecipe | None = None,
    ) -> SamplingRecipe:
        """Fill in null values from the store that is to be extended, or else from a backbone's card.

        Args:
            num_frames: The card's number of frames per clip; 1 for an image backbone.
            frame_stride: The card's distance between frames.
            crop_fraction: The card's crop as a fraction of the shorter side.
            temporal: How clips lie in time.
            stored: The store's recipe, if there is one. It is used only if layout and crops are the requested ones.

        Raises:
            ConfigError: The settings contradict each other.
        """
        bank = self.layout == "frames"
        image = num_frames == 1
        defaults: dict[str, Any] = {
            "temporal": "bank" if bank else temporal,
            "num_frames": 1 if bank else 8 if image else num_frames,
            "frame_stride": 1 if bank else 4 if image else frame_stride,
            "spatial": "center" if self.num_crops == 1 else "views",
            "crop_fraction": crop_fraction,
            "side_range": (0.7, 0.875) if self.spatial == "random_short_side" else None,
            "box_fraction": (0.875, 0.7) if self.spatial == "center_and_random" else None,
        }
        if stored is not None and (stored.layout, stored.num_crops) == (self.layout, self.num_crops):
            defaults = {name: getattr(stored, name) for name in defaults}
        given = {name: getattr(self, name) for name in type(self).model_fields}
        open_ = {name: value for name, value in defaults.items() if given[name] is None}
        recipe = SamplingRecipe(**{**given, **open_, "num_clips": 1 if bank else self.num_clips})
        if recipe.is_imported:
            raise ConfigError(
                "sampling is 'imported': nothing says which clips its rows were, so none can be decoded for it; "
                "extract into a store of its own"
            )
        return recipe


class FeatureSettings(Settings):
    """One array of the store."""

    backbone: str
    """Registry name, e.g. ``clip-l14``, ``i3d``, ``timm/vit_small_patch16_224.dino``."""
    weights: str = "default"
    """Weights: ``default``, ``random`` or the path of a file."""
    name: str | None = None
    """Name of the array; null: backbone, layer and output."""
    layer: str = "last"
    """Layer name; ``last`` is the backbone's default."""
    output: Output = "mean"
    """Output: ``cls``, ``mean``, ``tokens``, ``map``, or ``logits`` of the backbone's own classifier, e.g. of a
    fine-tuned run."""
    average_frames: bool | None = None
    """Average a clip's frames into one record; null: yes for the vectors of an image backbone on clips."""
    grid: int | None = None
    """Side of the pooled map."""
    channels: int | None = None
    """Number of channels after pooling neighbours."""
    input_size: int | None = None
    """Side in pixels of the resized crop, which is the backbone's input unless it is enlarged; null: the card's."""
    interpolation: Interpolation | None = None
    """Resize filter; null: the card's."""
    mean: tuple[float, float, float] | None = None
    """RGB means of the normalisation; null: the card's."""
    std: tuple[float, float, float] | None = None
    """RGB standard deviations of the normalisation; null: the card's."""
    precision: Precision = "float16"
    """Storage dtype: ``float16`` (overflow is an error), ``float32`` or ``int8`` (one scale per channel)."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the forward pass."""
    enlarge: int | None = Field(default=None, ge=2)
    """Factor by which the resized crop is enlarged for the backbone, e.g. 2 for crops of 112 pixels and an input of
    224; null: not enlarged."""


class RuntimeSettings(Settings):
    """How the machine is used; never part of a store's identity."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    matmul: Matmul = "highest"
    """Precision of float32 matrix products and convolutions on a GPU: ``highest``, or ``high`` for TF32, which is
    faster and rounds inputs to 10 bits. Recorded with every shard, because results depend on it."""
    threads: int = Field(default=0, ge=0, le=MAX_THREADS)
    """Threads of the forward pass on CPU; 0: all cores. Recorded in the plan, because results depend on it."""
    encode_batch: int = Field(default=0, ge=0, le=MAX_ENCODE_BATCH)
    """Rows per forward pass; 0: as many as give 256 frames (image) or 8 clips (video) on a GPU, 8 frames or 1 clip on
    CPU."""
    decode_workers: int = Field(default=0, ge=0)
    """Number of decoding processes; 0: 1 on CPU, half the cores with a GPU."""
    deadline_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds without progress after which a decode is killed and its video recorded as ``timeout``."""
    max_gigapixels: float = Field(default=MAX_GIGAPIXELS, gt=0, allow_inf_nan=False)
    """Limit of decoded gigapixels per file and pass; a file that needs more is recorded as ``undecodable``."""
    ahead_megabytes: int = Field(default=0, ge=0)
    """Megabytes of decoded pixels that may wait for the encoder; 0: four batches, at least 32 MB."""


class ClusterSettings(Settings):
    """Processes that compute shards in place of this one. The store does not depend on them."""

    scheduler: Aside[str | None] = None
    """Address of a Dask scheduler whose workers compute, e.g. ``tcp://head:8786``, or its ``--scheduler-file``;
    null: none."""
    workers: Aside[int] = Field(default=0, ge=0)
    """Number of processes on this machine that compute, e.g. one per GPU; 0: this process alone."""
    wait_seconds: Aside[float] = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds to wait for the first worker of a scheduler, and for another one when all have gone."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        super().model_post_init(context)
        if self.scheduler is not None and self.workers:
            raise ConfigError("--scheduler and --workers are given; a scheduler has its own workers, give one of them")

    @property
    def is_used(self) -> bool:
        """Whether other processes compute."""
        return self.scheduler is not None or self.workers > 0


def failures_allowed(max_failed: int | str | None, *, num_videos: int) -> int | None:
    """Number of videos that may fail; ``None``: any number.

    Args:
        max_failed: A number, ``"<number>"`` or ``"<share>%"``.
        num_videos: Total number of videos.

    Raises:
        ConfigError: ``max_failed`` is neither a number nor a share.
    """
    if max_failed is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", str(max_failed)):
        return int(max_failed)
    share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%", str(max_failed))
    if share and Decimal(share[1]) <= 100:
        return int(num_videos * Decimal(share[1]) / 100)
    raise ConfigError(f"max_failed is {max_failed!r}; give a number of videos, e.g. 10, or a share, e.g. 5%")


class ExtractSettings(SourceSettings):
    """Settings of ``featcache extract``."""

    BUCKET_NAMES: ClassVar = Settings.BUCKET_NAMES | {"out"}

    command: Literal["extract"] = "extract"
    """The command this file repeats."""
    out: str
    """The store to create, resume or extend."""
    file_format: FileFormat = "zarr"
    """File format of the shards: ``zarr`` or ``hdf5``."""
    features: tuple[FeatureSettings, ...]
    """The arrays to compute, all from one decoding pass."""
    sampling: SamplingSettings = SamplingSettings()
    """Rows that a video gets: clips or frames in time, boxes in space."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used."""
    cluster: ClusterSettings = ClusterSettings()
    """Processes that compute in place of this one."""
    shard_rows: int = Field(default=0, ge=0, le=MAX_PLANNED_ROWS)
    """Rows per shard of added videos; 0: chosen by size and work, so that a killed run loses only minutes."""
    disk_fraction: float = 0.8
    """Refuse a plan that needs more than this share of the free disk."""
    retry_failed: bool = False
    """Try videos again that failed before."""
    max_failed: int | str | None = None
    """Number of videos of the store that may fail before it is an error, or a share such as ``5%``; null: all but
    one."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        super().model_post_init(context)
        if not self.features:
            raise ConfigError("features is empty; name at least one backbone")
        failures_allowed(self.max_failed, num_videos=0)
        if not (math.isfinite(self.disk_fraction) and self.disk_fraction > 0):
            raise ConfigError(f"disk_fraction is {self.disk_fraction}; it must be positive")
