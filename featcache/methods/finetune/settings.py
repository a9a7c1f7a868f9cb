"""Settings of fine-tuning a backbone on labelled videos, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Input, Settings
from featcache.errors import ConfigError
from featcache.loaders.settings import LabelledSettings
from featcache.recipes import ColorRecipe, ShortVideos
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

FULL = TrainingSettings(
    epochs=15,
    batch_size=32,
    optimiser=OptimiserSettings(name="sgd", lr=5e-3, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleSettings(kind="step", step_fractions=(11 / 15, 14 / 15), step_factor=0.1),
)
"""Training of the whole backbone, as in SVT §3.5 and TimeSformer's configuration."""
LINEAR = TrainingSettings(
    epochs=20,
    batch_size=32,
    optimiser=OptimiserSettings(name="sgd", lr=8e-3, momentum=0.9, weight_decay=0.0),
    schedule=ScheduleSettings(),
)
"""Training of only the head, on augmented clips (SVT §3.5), with the paper's learning rate."""


class FinetuneClipSettings(Settings):
    """Training clips, one per video and epoch; time and place are drawn anew each time."""

    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames per clip; null: the backbone's, or 8 for an image backbone."""
    frame_stride: int | None = Field(default=None, ge=1)
    """Distance between a clip's frames at ``target_fps``; null: clips are spread over the whole video
    (``spread_random`` of the sampling recipe, ``spread`` in tests). SVT's published probe has 32 at 30 frames per
    second."""
    target_fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Frame rate at which ``frame_stride`` is counted; null: the video's own."""
    short_videos: ShortVideos = "clamp"
    """With ``frame_stride``: a clip longer than its video repeats the last frame (``clamp``) or wraps (``loop``)."""
    crop: Literal["short_side", "resized", "centre"] = "short_side"
    """``short_side``: a random square of ``side_range`` of the shorter side; ``resized``: a random box of ``scale`` and
    ``ratio``, as torchvision's ``RandomResizedCrop``; ``centre``: the centred square of the upper end of
    ``side_range``."""
    side_range: tuple[float, float] = (0.7, 0.875)
    """Side of the square as a fraction of the frame's shorter side: 224 out of 320 to 256."""
    scale: tuple[float, float] = (0.25, 1.0)
    """``resized``: area of the box as a share of the frame; RSPNet's fine-tuning has 0.25 to 1."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """``resized``: width over height of the box."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a clip is mirrored; set 0 if direction matters (SSv2, the motion set)."""
    color: ColorRecipe | None = None
    """Colour augmentation; null: none, as in the paper."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        for name in ("side_range", "scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ConfigError(f"clips.{name} is {[low, high]}; give an increasing pair above 0 and at most 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"clips.ratio is {list(self.ratio)}; give an increasing pair above 0")
        if self.target_fps is not None and self.frame_stride is None:
            raise ConfigError("clips.target_fps is given without clips.frame_stride, which it counts; give both")


class FinetuneTestSettings(Settings):
    """Views of a test video, as many as ``num_clips`` times ``num_crops``."""

    num_clips: int = Field(default=1, ge=1)
    """Number of clips, equally spaced; a single one lies in the middle."""
    num_crops: int = Field(default=3, ge=1)
    """Number of squares spread over the longer side; 1: the centre."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """Side of a square as a fraction of the shorter side."""
    average: Literal["softmax", "logits"] = "softmax"
    """Quantity that is averaged over the views of a video."""


class FinetuneSettings(LabelledSettings):
    """Settings of ``featcache train finetune``: a backbone and a linear head on labelled videos, then tested."""

    command: Literal["train-finetune"] = "train-finetune"
    """The command this file repeats."""
    workers: Aside[int | None] = Field(default=None, ge=0)
    """Number of decoding processes; 0: a thread of the training process; null: one per core. The pixels are the
    same."""
    backbone: str
    """Registry name, e.g. ``svt-b`` or ``svt-b-slowfast``; features of image backbones are averaged over frames."""
    weights: Input[str] = "default"
    """Weights: ``default``, ``random`` (the same for every seed) or the path of a file."""
    layer: str = "last"
    """Layer that the head reads; ``last`` is the backbone's default."""
    output: Literal["cls", "mean"] | None = None
    """Output that the head reads: the class token, or the mean over the map; null: the class token if there is one."""
    input_size: int | None = Field(default=None, ge=1)
    """Input side in pixels; null: the backbone's."""
    mean: tuple[float, float, float] | None = None
    """RGB means; null: the backbone's. SVT's published probes use 0.45 for each."""
    std: tuple[float, float, float] | None = None
    """RGB standard deviations; null: the backbone's. SVT's published probes use 0.225 for each."""
    frozen: bool = False
    """Train only the head: the backbone stays frozen, in evaluation mode."""
    head_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate before the head."""
    clips: FinetuneClipSettings = FinetuneClipSettings()
    """Training clips."""
    test: Aside[FinetuneTestSettings] = FinetuneTestSettings()
    """Test views."""
    training: TrainingSettings = FULL
    """Training settings; the defaults are SVT's."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<source>/finetune-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check the source of the videos, and that the backbone can be trained."""
        super().model_post_init(context)
        if self.training.ema_decay is not None:
            raise ConfigError("training.ema_decay is given, and fine-tuning keeps no average; leave it out")
        if "+" in self.backbone:
            raise ConfigError(
                f"backbone {self.backbone!r} joins several, whose weights go into no one file; fine-tune one of them"
            )
