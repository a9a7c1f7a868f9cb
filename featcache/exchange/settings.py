"""Settings of ``import`` and ``export``."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from featcache.config import Settings
from featcache.errors import ConfigError, unknown_name
from featcache.exchange.layouts import compile_pattern
from featcache.recipes import FeatureRecipe, Interpolation, Output, Precision, SamplingRecipe, to_dict
from featcache.store.paths import FileFormat
from featcache.store.plan import MAX_ENCODE_BATCH, MAX_PLANNED_ROWS, MAX_THREADS

ImportFormat = Literal["npy", "webdataset", "hf", "parquet"]
ExportFormat = Literal["parquet", "npy", "webdataset", "hf", "fiftyone", "actionformer", "opentad"]
IMPORT_FORMATS: tuple[str, ...] = ("npy", "webdataset", "hf", "parquet")
EXPORT_FORMATS: tuple[str, ...] = ("parquet", "npy", "webdataset", "hf", "fiftyone", "actionformer", "opentad")

# Defaults for rows that were sampled elsewhere: everything is unknown unless it is declared.
IMPORTED = SamplingRecipe(
    temporal="imported",
    spatial="imported",
    num_clips=1,
    num_frames=1,
    frame_stride=1,
    crop_fraction=1.0,
    decoder="unknown",
)


def _known_format(*known: str) -> BeforeValidator:
    """Refuse a format that is not known, with the closest one."""

    def check(name: Any) -> Any:
        if isinstance(name, str) and name not in known:
            raise unknown_name("format", name, known)
        return name

    return BeforeValidator(check)


def _with_unknowns(given: Any) -> Any:
    return {**to_dict(IMPORTED), **given} if isinstance(given, Mapping) else given


class DeclaredFeature(Settings):
    """The recipe that the user declares for the arrays: a ``FeatureRecipe`` in which null means unknown."""

    backbone: str
    """Model that computed the features, e.g. ``clip-l14`` or any other name."""
    weights_hash: str = "unknown"
    """Weights: ``unknown``, ``declared:<any text>``, or the ``sha256:…`` of an exported store."""
    name: str | None = None
    """Name of the array in the store; null: backbone, layer and output."""
    layer: str = "unknown"
    """Layer name."""
    output: Output | None = None
    """Output: ``cls``, ``mean``, ``tokens``, ``map`` or ``logits``; null: from the number of axes of a row (1, 2,
    more)."""
    axes: tuple[str, ...] | None = None
    """Names of the axes of a row; null: ``c``, ``n c``, ``h w c`` or ``t h w c``, from their number."""
    precision: Precision | None = None
    """Storage dtype; null: the dtype of the arrays, bit for bit. float64 arrays need ``float32`` (or ``float16``)."""
    average_frames: bool | None = None
    """Whether a clip's frames were averaged."""
    grid: int | None = None
    """Side of a pooled map."""
    channels: int | None = None
    """Number of channels after pooling neighbours."""
    input_size: int | None = None
    """Side of the model's input in pixels."""
    interpolation: Interpolation | None = None
    """Resize filter."""
    mean: tuple[float, float, float] | None = None
    """RGB means of the normalisation."""
    std: tuple[float, float, float] | None = None
    """RGB standard deviations of the normalisation."""
    compute: Literal["float32", "bfloat16"] | None = None
    """Dtype of the forward pass."""
    enlarge: int | None = None
    """Factor by which the pixels were enlarged for the model; null: they were not."""
    classes: tuple[str, ...] | None = None
    """Class names of ``logits``, in order."""

    def model_post_init(self, context: object) -> None:
        """Check that a declaration cannot be taken for a hash of weights."""
        if not re.fullmatch(r"unknown|declared:.+|sha256:[0-9a-f]+", self.weights_hash):
            raise ConfigError(
                f"weights_hash is {self.weights_hash!r}; write 'unknown', 'declared:' and any text, or the 'sha256:…' "
                "of an exported recipe"
            )

    def recipe(self, *, precision: Precision, output: Output) -> FeatureRecipe:
        """The recipe; unknown fields have their defaults, which then have no meaning."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(FeatureRecipe)}
        known = {name: value for name, value in given.items() if value is not None}
        return FeatureRecipe(**{**known, "precision": precision, "output": output})

    def unknown_fields(self) -> list[str]:
        """Fields of the recipe whose values are unknown."""
        asked = ("weights_hash", "layer", "average_frames", "input_size", "interpolation", "mean", "std", "compute")
        return [name for name in asked if getattr(self, name) in (None, "unknown")]


class TimingSettings(Settings):
    """Times of rows, for videos whose own JSON file or listing does not give them; null means unknown.

    Row i begins at frame ``offset_frames + i * stride_frames`` and lasts ``clip_frames`` frames.
    """

    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Frames per second."""
    stride_frames: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Number of frames from one row to the next."""
    clip_frames: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Number of frames that a row spans."""
    offset_frames: float = Field(default=0.0, allow_inf_nan=False)
    """Frame at which the first row begins."""


class ColumnSettings(Settings):
    """Names of columns in tables of format ``hf`` and of members in samples of format ``webdataset``."""

    id: str = "id"
    """Column of video ids."""
    array: str = "feature"
    """Column of arrays."""
    array_is: Literal["row", "video"] = "row"
    """``row``: each table row is one stored row. ``video``: each table row holds all rows of a video, [N, …]."""
    label: str = "label"
    """Column of labels; columns ``label.<name>`` are always read."""
    split: str = "split"
    """Column of splits."""
    npy: str = "npy"
    """Extension of the arrays in webdataset shards, e.g. ``npy`` or ``feat.npy``."""


class ImportSettings(Settings):
    """Settings of ``featcache import``."""

    BUCKET_NAMES: ClassVar = frozenset({"out"})

    command: Literal["import"] = "import"
    """The command this file repeats."""
    source: str
    """A folder of ``.npy`` files, a webdataset shard or a folder of them, a saved dataset or Parquet files."""
    format: Annotated[ImportFormat, _known_format(*IMPORT_FORMATS)]
    """``npy``, ``webdataset``, or ``hf`` or ``parquet``, which both read saved datasets and Parquet files."""
    out: str
    """The store to create, resume or extend."""
    file_format: FileFormat = "zarr"
    """File format of the shards: ``zarr`` or ``hdf5``."""
    feature: DeclaredFeature
    """Recipe of the arrays, as far as it is known."""
    sampling: Annotated[SamplingRecipe, BeforeValidator(_with_unknowns)] = IMPORTED
    """Sampling of the rows, as far as it is known; fields that are left out are unknown."""
    listing: str | None = None
    """A CSV with a column ``id`` and optionally ``split``, ``label``, ``label.<name>`` and timing."""
    timing: TimingSettings = TimingSettings()
    """Times of rows, for videos whose JSON file or listing does not give them."""
    pattern: str | None = None
    """Paths of format ``npy``, e.g. ``{split}/{label}/{id}_resnet.npy``; others are left out. Null: every ``.npy``."""
    columns: ColumnSettings = ColumnSettings()
    """Names of columns and members in tables and shards."""
    encode_batch: int = Field(default=1, ge=1, le=MAX_ENCODE_BATCH)
    """Rows per forward pass with which the arrays were computed, for ``encoder()`` of an exported recipe."""
    threads: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Number of threads with which the arrays were computed, for ``encoder()`` of an exported recipe."""
    shard_rows: int = Field(default=0, ge=0, le=MAX_PLANNED_ROWS)
    """Rows per shard; 0: chosen by size."""

    def model_post_init(self, context: object) -> None:
        """Check that a pattern is valid and that the format has paths to match."""
        if self.pattern is not None:
            compile_pattern(self.pattern)
            if self.format != "npy":
                raise ConfigError(f"pattern is about files of format npy, and format is {self.format!r}; leave it out")


class ExportSettings(Settings):
    """Settings of ``featcache export``."""

    command: Literal["export"] = "export"
    """The command this file repeats."""
    store: str
    """The store to export."""
    format: Annotated[ExportFormat, _known_format(*EXPORT_FORMATS)]
    """``parquet``, ``npy``, ``webdataset``, ``hf``, ``fiftyone``, ``actionformer`` or ``opentad``."""
    out: str
    """The folder to write; it must not exist, or be empty."""
    feature: str | None = None
    """Name of the array; null if the store has only one."""
    split: str | None = None
    """Only videos of this split; null: all."""
    videos: tuple[str, ...] | None = None
    """Only these ids; null: all."""
    shard_megabytes: int = Field(default=256, ge=1)
    """Size at which a webdataset shard or a file of an HF dataset is closed."""
