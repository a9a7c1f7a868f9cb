"""Settings of the pipelines ``scale`` and ``svt``, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Settings
from featcache.data.motion import MotionSettings
from featcache.data.selection import Selection
from featcache.evaluation.settings import (
    ClipTraining,
    KnnSettings,
    LinearSettings,
    MlpSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.extract.settings import FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneTestSettings
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings
from featcache.methods.svt.settings import (
    PATCH_SIZE,
    Size,
    SvtHeadSettings,
    SvtInitSettings,
    SvtLossSettings,
    SvtViewSettings,
)
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import SetPredictorSettings
from featcache.recipes import PlainViews
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

SMALL_PROBE = ClipTraining(lrs=(3e-4, 1e-3), batch_sizes=(64,), seeds=(0,), epochs=20)
"""How the probes that train a network are trained on a laptop; SCALE's take three times the epochs."""


class ScalePipelineSettings(Settings):
    """Settings of ``pipelines/scale.py``: SCALE from videos to figures; the defaults make and use a motion set."""

    command: Literal["scale"] = "scale"
    """The command this file repeats."""
    out: str = "scale"
    """Folder for the store, the run and the table."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted after the extraction."""
    motion: MotionSettings = MotionSettings(
        num_frames=32, window=(0.15, 0.25), train_per_picture_motion=3, test_unseen_per_picture_motion=1
    )
    """The clips to make where no source is given."""
    feature: FeatureSettings = FeatureSettings(backbone="timm/tf_efficientnet_lite0", output="mean", input_size=160)
    """The vectors to store."""
    sampling: SamplingSettings = SamplingSettings(
        temporal="random",
        num_clips=16,
        num_frames=4,
        frame_stride=2,
        spatial="random_resized",
        scale=(0.3, 0.8),
        test=PlainViews(temporal="uniform_open", num_clips=5, num_crops=3, crop_fraction=0.75),
    )
    """The clips of a video: 16 random ones to train on, 5 x 3 views to test."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    clips_per_set: int = Field(default=8, ge=1)
    """Clips of each of the two sets of a video."""
    predictor: SetPredictorSettings = SetPredictorSettings()
    """The set predictor, and the baseline "Transformer"."""
    heads: ScaleHeadSettings = ScaleHeadSettings(target_hidden=512, hidden=1024)
    """The heads of pre-training, a quarter of the published width: they are most of the work."""
    loss: ScaleLossSettings = ScaleLossSettings()
    """The losses."""
    pretraining: TrainingSettings = TrainingSettings(
        epochs=60,
        batch_size=64,
        optimiser=OptimiserSettings(lr=3e-4, weight_decay=1e-4),
        schedule=ScheduleSettings(warmup_fraction=0.05),
        tensorboard=False,
    )
    """Pre-training without labels."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
    knn: KnnSettings = KnnSettings(center=True)
    """kNN on vectors, and beside the summary of their video (SCALE_kNN)."""
    linear: LinearSettings = LinearSettings(seeds=(0,))
    """The linear baseline on vectors."""
    mlp: MlpSettings = MlpSettings(hidden=(512, 512, 256), training=SMALL_PROBE)
    """The baseline "MLP"."""
    scale_linear: ScaleLinearSettings = ScaleLinearSettings(training=SMALL_PROBE)
    """A linear classifier beside the frozen predictor (SCALE_linear)."""
    transformer: TransformerSettings = TransformerSettings(training=SMALL_PROBE)
    """The predictor's shape from random weights (Transformer)."""
    scale_ft: ScaleFtSettings = ScaleFtSettings(training=SMALL_PROBE)
    """The pre-trained predictor trained further (SCALE_ft)."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""


class SvtPipelineSettings(Settings):
    """Settings of ``pipelines/svt.py``: SVT from videos to figures; the defaults make and use a motion set."""

    command: Literal["svt"] = "svt"
    """The command this file repeats."""
    out: str = "svt"
    """Folder for the runs, the store and the table."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted at the end."""
    selection: Selection = Selection()
    """Which split counts, and what is taken of the listed videos."""
    motion: MotionSettings = MotionSettings(size=64)
    """The clips to make where no source is given."""
    size: Size = "tiny"
    """``tiny``, ``small`` or ``base``."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block."""
    init: SvtInitSettings = SvtInitSettings()
    """What the network starts from."""
    views: SvtViewSettings = SvtViewSettings(
        global_frames=(8, 8),
        local_frames=(4, 4),
        global_size=32,
        local_size=32,
        global_time=1.0,
        local_time=0.5,
        local_scale=(0.2, 0.6),
        flip_probability=0.0,
    )
    """Views that suit clips of 8 frames: small, and never mirrored, since direction is what is asked for."""
    head: SvtHeadSettings = SvtHeadSettings(hidden=256, bottleneck=64, prototypes=1024, frozen_epochs=0.5)
    """A head for small sets."""
    loss: SvtLossSettings = SvtLossSettings()
    """The loss."""
    teacher_momentum: float = Field(default=0.99, ge=0, le=1)
    """Of the teacher's moving average in the beginning; a short run wants less than the paper's 0.996."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that decode while training; null: one a core."""
    pretraining: TrainingSettings = TrainingSettings(
        epochs=12,
        batch_size=16,
        optimiser=OptimiserSettings(lr=5e-4, weight_decay=0.04, final_weight_decay=0.1),
        schedule=ScheduleSettings(warmup_fraction=1 / 12, final_factor=0.01),
        clip_each_norm=3.0,
        tensorboard=False,
    )
    """Pre-training without labels."""
    input_size: int = Field(default=32, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Side in pixels at which the trained network is used."""
    sampling: SamplingSettings = SamplingSettings(temporal="spread", num_clips=1, num_frames=8, crop_fraction=1.0)
    """The clips of a video that are stored."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
    knn: KnnSettings = KnnSettings()
    """kNN on the class tokens."""
    linear: LinearSettings = LinearSettings(seeds=(0,))
    """The linear probe on them."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    finetune_label: str = "motion"
    """Label column to fine-tune on."""
    clips: FinetuneClipSettings = FinetuneClipSettings(side_range=(0.7, 1.0), flip_probability=0.0)
    """Training clips of fine-tuning."""
    test: FinetuneTestSettings = FinetuneTestSettings(num_crops=1)
    """Test views of a video after fine-tuning."""
    head_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the head that is fine-tuned; SVT has 0.5."""
    finetuning: TrainingSettings = TrainingSettings(
        epochs=10,
        batch_size=32,
        optimiser=OptimiserSettings(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleSettings(warmup_fraction=0.1),
        clip_norm=3.0,
        tensorboard=False,
    )
    """Fine-tuning, from the first seed's teacher and from the network as it was before training."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""
