"""The typed tree of commands: what one YAML file can say, and which function each file repeats.

Each command is a function of its settings. The key ``command`` names it; ``featcache run FILE`` looks it up here.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.commands.steps import PipelineSettings, SweepSettings
from featcache.config import Settings, apply_overrides, parse, read_mapping
from featcache.data.motion import MotionSettings
from featcache.data.selection import VideosSettings
from featcache.errors import ConfigError, unknown_name
from featcache.evaluation.settings import (
    KnnSettings,
    LinearSettings,
    MlpSettings,
    RidgeSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.exchange.settings import ExportSettings, ImportSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, FileFormat, RuntimeSettings, SamplingSettings
from featcache.methods.advise.settings import (
    AdviseSettings,
    PretextClipSettings,
    R3d50Settings,
    TmmEvaluationSettings,
    TmmFineTuneSettings,
)
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.scale.settings import ScaleSettings
from featcache.methods.svt.settings import SvtSettings
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import TmmSettings
from featcache.pipeline_settings import ScalePipelineSettings, SvtPipelineSettings
from featcache.report.figure_settings import ActivationFigureSettings, AttentionFigureSettings, CostFigureSettings
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings


class ScanSettings(VideosSettings):
    """Settings of ``featcache scan``."""

    command: Literal["scan"] = "scan"
    """The command this file repeats."""
    out: str
    """The manifest to write; it ends in ``.parquet``, by which ``extract`` knows it."""

    def model_post_init(self, context: object) -> None:
        """Check where videos come from, and that the manifest will be found again."""
        super().model_post_init(context)
        if Path(self.out).suffix != ".parquet":
            raise ConfigError(f"out is {self.out!r}; give the manifest a name that ends in .parquet")


class ProbeTarget(Settings):
    """What every probe is asked about."""

    command: str
    """The command this file repeats."""
    store: str
    """The store."""
    feature: str | None = None
    """Name of the array; null where the store has one."""
    label: str = "label"
    """Label column."""
    split_column: str | None = None
    """Label column with the split, e.g. ``split2``; null: ``split_<label>`` if there is one, else the store's own."""
    train_split: str = "train"
    """Split to learn from; a store without splits is probed by leaving videos out."""
    test_splits: tuple[str, ...] | None = None
    """Splits to score; null: all others."""
    low_shot: float | None = Field(default=None, gt=0, le=1)
    """Learn from the first of each class's training videos, in list order: 0.1 is SCALE's 10 %; null: from all."""
    numbers: bool = False
    """The labels are numbers to predict (regression), not classes."""
    device: str = "auto"
    """Where to compute: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder for the result and this file; null: ``runs/<store>/<probe>-<hash>``."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""


class KnnProbeSettings(ProbeTarget):
    """Settings of ``featcache probe knn``."""

    command: Literal["probe-knn"] = "probe-knn"
    """The command this file repeats."""
    knn: KnnSettings = KnnSettings()
    """The probe's own settings."""


class LinearProbeSettings(ProbeTarget):
    """Settings of ``featcache probe linear``."""

    command: Literal["probe-linear"] = "probe-linear"
    """The command this file repeats."""
    linear: LinearSettings = LinearSettings()
    """The probe's own settings."""


class RidgeProbeSettings(ProbeTarget):
    """Settings of ``featcache probe ridge``."""

    command: Literal["probe-ridge"] = "probe-ridge"
    """The command this file repeats."""
    numbers: bool = True
    """It predicts nothing else."""
    ridge: RidgeSettings = RidgeSettings()
    """The probe's own settings."""


class MlpProbeSettings(ProbeTarget):
    """Settings of ``featcache probe mlp``."""

    command: Literal["probe-mlp"] = "probe-mlp"
    """The command this file repeats."""
    mlp: MlpSettings = MlpSettings()
    """The probe's own settings."""


class TransformerProbeSettings(ProbeTarget):
    """Settings of ``featcache probe transformer``."""

    command: Literal["probe-transformer"] = "probe-transformer"
    """The command this file repeats."""
    transformer: TransformerSettings = TransformerSettings()
    """The probe's own settings."""


class ScaleLinearProbeSettings(ProbeTarget):
    """Settings of ``featcache probe scale-linear``."""

    command: Literal["probe-scale-linear"] = "probe-scale-linear"
    """The command this file repeats."""
    scale_linear: ScaleLinearSettings = ScaleLinearSettings()
    """The probe's own settings."""


class ScaleFtProbeSettings(ProbeTarget):
    """Settings of ``featcache probe scale-ft``."""

    command: Literal["probe-scale-ft"] = "probe-scale-ft"
    """The command this file repeats."""
    scale_ft: ScaleFtSettings = ScaleFtSettings()
    """The probe's own settings."""


class SearchSettings(Settings):
    """Settings of ``featcache search``."""

    command: Literal["search"] = "search"
    """The command this file repeats."""
    store: str
    """The store."""
    video: str | None = None
    """Find what is like this file."""
    text: str | None = None
    """Find what fits these words; for stores of CLIP's layer ``proj`` alone."""
    feature: str | None = None
    """Name of the array; null where the store has one."""
    by: Literal["clip", "video"] = "clip"
    """``clip``: every row counts for itself. ``video``: the mean of each video's rows."""
    k: int = Field(default=10, ge=1)
    """Hits."""
    engine: Literal["exact", "faiss"] = "exact"
    """``exact`` (torch, block by block) or ``faiss`` (flat index, all in memory)."""
    exclude_self: bool = False
    """Leave out videos whose file has the same bytes as the query's."""
    label: str = "label"
    """Label column to show."""
    sheet: str | None = None
    """Picture of the hits to draw; PNG or JPEG by its suffix."""
    videos: str | None = None
    """Folder of the videos for the picture; null: where they were extracted from."""
    weights: str | None = None
    """Weights of the feature's backbone, where those that the store was made with have moved."""
    device: str = "auto"
    """Where the query is encoded."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.video is None and self.text is None:
            raise ConfigError("nothing says what to search for; give --video FILE or --text WORDS")
        if self.video is not None and self.text is not None:
            raise ConfigError("give either --video FILE or --text WORDS, not both")
        if self.text is not None and not self.text.strip():
            raise ConfigError("--text is empty; give some words")
        if self.text is not None and self.exclude_self:
            raise ConfigError("--exclude-self leaves out the query's own file, and a text has none; drop it")
        if self.sheet is not None and Path(self.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ConfigError(f"sheet is {self.sheet!r}; give the picture a name that ends in .png or .jpg")


class QuickstartSettings(Settings):
    """Settings of ``featcache quickstart``."""

    command: Literal["quickstart"] = "quickstart"
    """The command this file repeats."""
    out: str = "quickstart"
    """Folder for the store, the results and, while they are needed, the clips."""
    motion: MotionSettings = MotionSettings()
    """The clips to make."""
    file_format: FileFormat = "zarr"
    """Shard files: ``zarr`` or ``hdf5``."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used."""
    knn: KnnSettings = KnnSettings()
    """Settings of the kNN probe."""
    linear: LinearSettings = LinearSettings()
    """Settings of the linear probe."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    tmm: TmmSettings = TmmSettings(hidden=64, out=128, num_blocks=2, temporal_kernel=3, head_hidden=128)
    """The temporal module that learns motion from the stored maps; averaged features stand beside it."""
    tmm_training: TrainingSettings = TrainingSettings(
        epochs=30,
        optimiser=OptimiserSettings(weight_decay=1.0),
        schedule=ScheduleSettings(warmup_fraction=2 / 30),
        tensorboard=False,
    )
    """How it is trained."""
    keep_videos: bool = False
    """Keep the clips instead of deleting them before the probes."""


class AdvisePipelineSettings(Settings):
    """Settings of ``pipelines/advise.py``: AdViSe from videos to figures; the defaults make and use a motion set."""

    command: Literal["advise"] = "advise"
    """The command this file repeats."""
    out: str = "advise"
    """Folder for the store, the runs, the table and the picture."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted at the end."""
    motion: MotionSettings = MotionSettings(
        num_frames=32,
        window=(0.15, 0.25),
        num_unseen_pictures=16,
        train_per_picture_motion=2,
        test_unseen_per_picture_motion=0,
    )
    """The clips to make where no source is given: long enough to be played at several rates."""
    feature: FeatureSettings = FeatureSettings(
        backbone="timm/tf_efficientnet_lite0", layer="blocks.4", output="map", input_size=160
    )
    """The maps to store."""
    sampling: SamplingSettings = SamplingSettings(layout="frames", crop_fraction=1.0)
    """The frame bank."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    tmm: TmmSettings = TmmSettings(hidden=64, out=128, num_blocks=1, temporal_kernel=3, head_hidden=128)
    """The temporal module; a temporal kernel of 1, as released, mixes no frames."""
    clips: PretextClipSettings = PretextClipSettings()
    """Clips of the pretext task."""
    pretext: TrainingSettings = TrainingSettings(
        epochs=30, schedule=ScheduleSettings(warmup_fraction=2 / 30), tensorboard=False
    )
    """Pre-training on playback rate."""
    label: str = "motion"
    """Label column to fine-tune on."""
    labels_per_class: int | None = Field(default=None, ge=1)
    """Use so many training videos of each class; null: all."""
    sampler: Literal["random", "spread"] = "spread"
    """Fine-tuning clips, as in ``train tmm``."""
    stride: int = Field(default=8, ge=1)
    """Distance of their frames with ``random``."""
    test_clips: int = Field(default=1, ge=1)
    """Test clips a video."""
    finetuning: TrainingSettings = TrainingSettings(
        epochs=30, schedule=ScheduleSettings(warmup_fraction=2 / 30), tensorboard=False
    )
    """Fine-tuning, and training from scratch beside it."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One entry of the tree.

    Attributes:
        settings: Its settings class.
        module: Module that holds its function ``run(settings)``; imported when it is called.
    """

    settings: type[Settings]
    module: str


COMMANDS: Mapping[str, Command] = {
    "scan": Command(settings=ScanSettings, module="featcache.cli.extract"),
    "extract": Command(settings=ExtractSettings, module="featcache.cli.extract"),
    "probe-knn": Command(settings=KnnProbeSettings, module="featcache.cli.probe"),
    "probe-linear": Command(settings=LinearProbeSettings, module="featcache.cli.probe"),
    "probe-ridge": Command(settings=RidgeProbeSettings, module="featcache.cli.probe"),
    "probe-mlp": Command(settings=MlpProbeSettings, module="featcache.cli.probe"),
    "probe-transformer": Command(settings=TransformerProbeSettings, module="featcache.cli.probe"),
    "probe-scale-linear": Command(settings=ScaleLinearProbeSettings, module="featcache.cli.probe"),
    "probe-scale-ft": Command(settings=ScaleFtProbeSettings, module="featcache.cli.probe"),
    "train-advise": Command(settings=AdviseSettings, module="featcache.cli.train"),
    "train-tmm": Command(settings=TmmFineTuneSettings, module="featcache.cli.train"),
    "train-r3d50": Command(settings=R3d50Settings, module="featcache.cli.train"),
    "train-scale": Command(settings=ScaleSettings, module="featcache.cli.train"),
    "train-svt": Command(settings=SvtSettings, module="featcache.cli.svt"),
    "train-finetune": Command(settings=FinetuneSettings, module="featcache.cli.finetune"),
    "search": Command(settings=SearchSettings, module="featcache.cli.search"),
    "import": Command(settings=ImportSettings, module="featcache.cli.exchange"),
    "export": Command(settings=ExportSettings, module="featcache.cli.exchange"),
    "pipeline": Command(settings=PipelineSettings, module="featcache.cli.report"),
    "sweep": Command(settings=SweepSettings, module="featcache.cli.report"),
    "evaluate-tmm": Command(settings=TmmEvaluationSettings, module="featcache.cli.evaluate"),
    "figure-activation": Command(settings=ActivationFigureSettings, module="featcache.cli.figure"),
    "figure-attention": Command(settings=AttentionFigureSettings, module="featcache.cli.figure"),
    "figure-cost": Command(settings=CostFigureSettings, module="featcache.cli.figure"),
    "advise": Command(settings=AdvisePipelineSettings, module="featcache.cli.report"),
    "scale": Command(settings=ScalePipelineSettings, module="featcache.cli.report"),
    "svt": Command(settings=SvtPipelineSettings, module="featcache.cli.report"),
    "quickstart": Command(settings=QuickstartSettings, module="featcache.cli.pipeline"),
}


def load(path: Path, *, assignments: Sequence[str] = ()) -> Settings:
    """Read the settings of any command from YAML.

    Args:
        path: A file with a key ``command``.
        assignments: ``dotted.key=value`` overrides.

    Raises:
        ConfigError: The file, a key or a value is unusable; the sentence names it.
    """
    data = apply_overrides(read_mapping(path), assignments)
    if "command" not in data:
        raise ConfigError(f"{str(path)!r} has no key 'command'; add one of: {', '.join(COMMANDS)}")
    name = data["command"]
    if not isinstance(name, str) or name not in COMMANDS:
        raise unknown_name("command", str(name), COMMANDS)
    return parse(COMMANDS[name].settings, data)


def runner(settings: Settings) -> Callable[..., Any]:
    """The function that carries out ``settings``: ``run(settings, as_json=...)``."""
    name: str = settings.command  # type: ignore[attr-defined]
    run: Callable[..., Any] = importlib.import_module(COMMANDS[name].module).RUNNERS[name]
    return run
