"""Settings of ``import`` and ``export``."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

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

# What is known of rows that were sampled elsewhere: nothing, unless it is declared.
IMPORTED = SamplingRecipe(
    temporal="imported",
    spatial="imported",
    num_clips=1,
    num_frames=1,
    frame_stride=1,
    crop_fraction=1.0,
    decoder="unknown",
)


def _with_unknowns(given: Any) -> Any:
    return {**to_dict(IMPORTED), **given} if isinstance(given, Mapping) else given


class DeclaredFeature(Settings):
    """What the maker of the arrays says of them: a ``FeatureRecipe`` in which null is not known."""

    backbone: str
    """Who computed them, e.g. ``clip-l14`` or any other name."""
    weights_hash: str = "unknown"
    """``unknown``, ``declared:<any text>``, or the ``sha256:…`` of an exported store."""
    name: str | None = None
    """Name of the array in the store; null: backbone, layer and output."""
    layer: str = "unknown"
    """Layer name."""
    output: Output | None = None
    """``cls``, ``mean``, ``tokens`` or ``map``; null: by the number of axes of a row (1, 2, more)."""
    axes: tuple[str, ...] | None = None
    """Names of the axes of a row; null: ``c``, ``n c``, ``h w c`` or ``t h w c`` by their number."""
    precision: Precision | None = None
    """Storage; null: the dtype of the arrays, bit for bit. ``float32`` is what float64 arrays need."""
    average_frames: bool | None = None
    """Whether a clip's frames were averaged."""
    grid: int | None = None
    """Side of a pooled map."""
    channels: int | None = None
    """Channels after pooling neighbours."""
    input_size: int | None = None
    """Side of the input in pixels."""
    interpolation: Interpolation | None = None
    """Resize filter."""
    mean: tuple[float, float, float] | None = None
    """RGB means."""
    std: tuple[float, float, float] | None = None
    """RGB deviations."""
    compute: Literal["float32", "bfloat16"] | None = None
    """Dtype of the forward pass."""

    def model_post_init(self, context: object) -> None:
        """Check that nobody takes a declaration for a hash of weights."""
        if not re.fullmatch(r"unknown|declared:.+|sha256:[0-9a-f]+", self.weights_hash):
            raise ConfigError(
                f"weights_hash is {self.weights_hash!r}; write 'unknown', 'declared:' and any text, or the 'sha256:…' "
                "of an exported recipe"
            )

    def recipe(self, *, precision: Precision, output: Output) -> FeatureRecipe:
        """The recipe; what is not known has the default of its field, which then means nothing."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(FeatureRecipe)}
        known = {name: value for name, value in given.items() if value is not None}
        return FeatureRecipe(**{**known, "precision": precision, "output": output})

    def unknown_fields(self) -> list[str]:
        """Fields of the recipe of which nothing is known."""
        asked = ("weights_hash", "layer", "average_frames", "input_size", "interpolation", "mean", "std", "compute")
        return [name for name in asked if getattr(self, name) in (None, "unknown")]


class TimingSettings(Settings):
    """When the rows of a video were taken, for videos whose own sidecar or listing does not say; null is not known.

    Row i begins at frame ``offset_frames + i * stride_frames`` and lasts ``clip_frames`` frames.
    """

    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Frames a second."""
    stride_frames: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Frames from one row to the next."""
    clip_frames: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Frames that a row spans."""
    offset_frames: float = Field(default=0.0, allow_inf_nan=False)
    """Frame at which the first row begins."""


class ColumnSettings(Settings):
    """Where things are in the tables of format ``hf`` and the samples of format ``webdataset``."""

    id: str = "id"
    """Column of video ids."""
    array: str = "feature"
    """Column of arrays."""
    array_is: Literal["row", "video"] = "row"
    """``row``: each table row is one stored row. ``video``: each holds all rows of a video, [N, …]."""
    label: str = "label"
    """Column of labels; ``label.<name>`` are taken as they are."""
    split: str = "split"
    """Column of splits."""
    npy: str = "npy"
    """Extension of the arrays in webdataset shards, e.g. ``npy`` or ``feat.npy``."""


class ImportSettings(Settings):
    """Settings of ``featcache import``."""

    command: Literal["import"] = "import"
    """The command this file repeats."""
    source: str
    """A folder of ``.npy`` files, a webdataset shard or a folder of them, a saved dataset or Parquet files."""
    format: ImportFormat
    """``npy``, ``webdataset``, or ``hf`` and ``parquet``, which are one: saved datasets and Parquet files."""
    out: str
    """The store to create, resume or extend."""
    file_format: FileFormat = "zarr"
    """Shard files: ``zarr`` or ``hdf5``."""
    feature: DeclaredFeature
    """What the arrays are, as far as it is known."""
    sampling: Annotated[SamplingRecipe, BeforeValidator(_with_unknowns)] = IMPORTED
    """Which rows they hold, as far as it is known; fields that are left out are not."""
    listing: str | None = None
    """A CSV with a column ``id`` and, if wanted, ``split``, ``label``, ``label.<name>`` and timing."""
    timing: TimingSettings = TimingSettings()
    """When rows were taken, where no sidecar or listing says so."""
    pattern: str | None = None
    """Paths of format ``npy``, e.g. ``{split}/{label}/{id}_resnet.npy``; others are left out. Null: every ``.npy``."""
    columns: ColumnSettings = ColumnSettings()
    """Where things are in tables and shards."""
    encode_batch: int = Field(default=1, ge=1, le=MAX_ENCODE_BATCH)
    """Rows a forward they were computed with, for ``encoder()`` of an exported recipe."""
    threads: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Threads they were computed with, likewise."""
    shard_rows: int = Field(default=0, ge=0, le=MAX_PLANNED_ROWS)
    """Rows a shard; 0: by size."""

    def model_post_init(self, context: object) -> None:
        """Check that a pattern can be read, and has paths to be compared with."""
        if self.pattern is not None:
            compile_pattern(self.pattern)
            if self.format != "npy":
                raise ConfigError(f"pattern is about files of format npy, and format is {self.format!r}; leave it out")


class ExportSettings(Settings):
    """Settings of ``featcache export``."""

    command: Literal["export"] = "export"
    """The command this file repeats."""
    store: str
    """The store."""
    format: ExportFormat
    """``parquet``, ``npy``, ``webdataset``, ``hf``, ``fiftyone``, ``actionformer`` or ``opentad``."""
    out: str
    """The folder to write; nothing or an empty folder may be there."""
    feature: str | None = None
    """Name of the array; null where the store has one."""
    split: str | None = None
    """Only videos of this split; null: all."""
    videos: tuple[str, ...] | None = None
    """Only these ids; null: all."""
    shard_megabytes: int = Field(default=256, ge=1)
    """Size at which a webdataset shard or a file of an HF dataset is closed."""


def check_format(name: str, known: tuple[str, ...]) -> None:
    """Refuse a format that is not known, with the closest one.

    Raises:
        UnknownNameError: Naming it.
    """
    if name not in known:
        raise unknown_name("format", name, known)
