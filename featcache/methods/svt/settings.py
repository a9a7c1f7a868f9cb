"""Settings of SVT's pre-training, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Input, Settings
from featcache.data.selection import TrainingVideosSettings
from featcache.errors import ConfigError
from featcache.loaders.settings import MonitorSettings
from featcache.methods.svt.pairs import NUM_GLOBALS, Route, view_pairs
from featcache.recipes import ColorRecipe
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

Size = Literal["tiny", "small", "base"]
Stem = Literal["patches", "difference"]
Sampler = Literal["uniform", "tis"]
PATCH_SIZE = 16
"""Side of a patch of the network, in pixels."""


class SvtViewSettings(Settings):
    """Two global and several local views of a video (SVT §3.2 and the released code)."""

    global_frames: tuple[int, int] = (8, 16)
    """Numbers of frames of the two global views."""
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    """Number of frames of each local view."""
    global_size: int = Field(default=224, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Side of a global view in pixels."""
    local_size: int = Field(default=96, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Side of a local view in pixels."""
    span_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length in seconds of the part of a longer video, at a random place, from which all views come; null: the whole
    video. The released code decodes 256 frames at 30 fps, which is 8.533."""
    global_time: float = Field(default=0.9, gt=0, le=1)
    """Duration of a global view's window, as a share of the span."""
    local_time: float = Field(default=0.125, gt=0, le=1)
    """Duration of a local view's window, as a share of the span."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Area of a global view's box, as a share of the frame."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Area of a local view's box, as a share of the frame."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of a box."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a view is mirrored; set 0 if direction matters (SSv2, the motion set)."""
    color: ColorRecipe | None = ColorRecipe(
        probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, grey_probability=0.2
    )
    """Colour augmentation; its probability of a blur is given by ``blur``. Null: none."""
    blur: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Probability of a blur for the first global, the second global and a local view: off as released; DINO: 1, 0.1,
    0.5."""
    solarise: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Probability of solarisation for the same three: off as released; DINO: 0, 0.2, 0."""
    consistent: bool = True
    """Draw box, flip and colours once for all frames of a view (TCA); false: for each frame (Table 7)."""
    sampler: Sampler = "uniform"
    """Sampler of the global views: ``uniform``: each spread over its own window; ``tis``: at a fixed stride, with the
    distance between them drawn as in CVRL (Table 6)."""
    tis_stride: int = Field(default=2, ge=1)
    """``tis``: distance between neighbouring frames; CVRL's is 2."""
    no_spatial: bool = False
    """Use whole frames at ``global_size``, neither mirrored nor recoloured (Table 5)."""
    no_temporal: bool = False
    """Take all views from one window of ``global_time`` (Table 5)."""

    @property
    def num_frames(self) -> tuple[int, ...]:
        """Number of frames of each view, globals first."""
        return (*self.global_frames, *self.local_frames)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels, globals first."""
        local_size = self.global_size if self.no_spatial else self.local_size
        return (*[self.global_size] * NUM_GLOBALS, *[local_size] * len(self.local_frames))

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if min(self.num_frames) < 1:
            raise ConfigError(f"views of {list(self.num_frames)} frames; give each at least 1")
        for name in ("global_scale", "local_scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name != "ratio" and high > 1):
                limit = "" if name == "ratio" else " and at most 1"
                raise ConfigError(f"views.{name} is {[low, high]}; give an increasing pair above 0{limit}")
        for name in ("blur", "solarise"):
            if not all(0 <= chance <= 1 for chance in getattr(self, name)):
                raise ConfigError(f"views.{name} is {list(getattr(self, name))}; chances are in [0, 1]")
        if self.color is not None and self.color.blur_probability:
            raise ConfigError("views.color.blur_probability is given; a view's chance of a blur is in views.blur")
        if self.color is None and any((*self.blur, *self.solarise)):
            raise ConfigError("views.blur or views.solarise is given without views.color; give colours, or set them 0")
        if self.sampler == "tis" and len(set(self.global_frames)) > 1:
            raise ConfigError(
                f"views.sampler 'tis' draws clips of equal length, not of {list(self.global_frames)} frames; "
                "set views.global_frames to two equal numbers"
            )
        if self.sampler == "tis" and self.no_temporal:
            raise ConfigError("views.sampler 'tis' and views.no_temporal contradict each other; keep one")


class SvtLossSettings(Settings):
    """Self-distillation: a student predicts its teacher's output for another view (SVT §3.3 and the released code)."""

    routes: tuple[Route, ...] = ("l2g", "g2g")
    """Pairs of views, student first: ``l2g`` is a student's local view and a teacher's global one (Table 4).
    ``l2l`` and ``g2l`` show the teacher local views too."""
    single_teacher: bool = False
    """All other views predict one random global view, and terms are summed, as in the paper's formula; false: the mean
    over all pairs, as released."""
    student_temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Temperature by which the student's logits are divided."""
    teacher_temperature: float = Field(default=0.04, gt=0, allow_inf_nan=False)
    """Temperature by which the teacher's centred logits are divided."""
    first_teacher_temperature: float = Field(default=0.04, gt=0, allow_inf_nan=False)
    """Initial teacher temperature, from which it changes linearly to ``teacher_temperature``."""
    teacher_warmup_epochs: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Number of epochs of that change (DINO: 30, from 0.04 to 0.07)."""
    centering: Literal["moving", "reversal"] = "moving"
    """What is subtracted from the teacher's logits: ``moving``: their moving mean, as published. ``reversal``: every
    view is also seen backwards, as a video of its own, and the mean of the two is subtracted, so that only what
    distinguishes a view from its reversal is left to predict. It suits the stem ``difference``; ours."""
    center_momentum: float = Field(default=0.9, ge=0, lt=1)
    """``moving``: momentum of that mean."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if not self.routes or len(set(self.routes)) < len(self.routes):
            raise ConfigError(f"loss.routes is {list(self.routes)}; give one or more different ones")
        if self.single_teacher and not set(self.routes) <= {"l2g", "g2g"}:
            raise ConfigError(
                f"loss.single_teacher has a global view for a target, but loss.routes is {list(self.routes)}; "
                "keep 'l2g' and 'g2g', or set loss.single_teacher=false"
            )


class SvtHeadSettings(Settings):
    """DINO's projection head, which is dropped after pre-training."""

    hidden: int = Field(default=2048, ge=1)
    """Width of its hidden layers."""
    bottleneck: int = Field(default=256, ge=1)
    """Width of the prototypes."""
    prototypes: int = Field(default=65_536, ge=2)
    """Number of prototypes."""
    frozen_epochs: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Number of epochs at the start in which the prototypes are frozen."""


class SvtInitSettings(Settings):
    """Initial weights of the network; the head is always initialised at random."""

    start: Literal["random", "image", "checkpoint"] = "random"
    """``random``; ``image``: a ViT of the same size trained on images, e.g. DINO's; ``checkpoint``: an SVT."""
    weights: Input[str | None] = None
    """File of the initial weights, e.g. ``dino_vitbase16_pretrain.pth``."""
    copies_to_time: bool = True
    """``image``: initialise temporal attention as a copy of spatial attention, as released; false: at random, as in
    the paper."""
    std: float = Field(default=0.02, gt=0, le=1)
    """Deviation of the initial weights of linear layers; 1 / sqrt(width) suits short runs from random weights."""
    time_std: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Deviation of the initial time positions; with the published 0 the network starts blind to the order of frames."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if (self.start == "random") != (self.weights is None):
            given = "without init.weights" if self.weights is None else f"with init.weights {self.weights!r}"
            raise ConfigError(f"init.start is {self.start!r} {given}; give both of 'image' or 'checkpoint', or neither")


class SvtSettings(TrainingVideosSettings):
    """Settings of ``featcache train svt``: a video transformer trained by self-distillation, from pixels."""

    command: Literal["train-svt"] = "train-svt"
    """The command this file repeats."""
    size: Size = "base"
    """Size of the network: ``tiny`` (4 blocks of width 192), ``small`` (12 of 384) or ``base`` (12 of 768)."""
    time_positions: int = Field(default=16, ge=1)
    """Number of learned positions in time, resized to each view; the paper has 16. With ``checkpoint``: those of the
    checkpoint."""
    stem: Stem = "patches"
    """What a patch is embedded from: ``patches``: its pixels, as published; ``difference``: also the signed difference
    to the next frame, by which a short clip and its reversal differ from the first layer on; ours."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth rate of the last block, for student and teacher."""
    recomputes_blocks: bool = False
    """Keep no activations inside blocks (gradient checkpointing): less memory, about a third more time."""
    init: SvtInitSettings = SvtInitSettings()
    """Initial weights of the network; the paper uses DINO's ViT-B/16."""
    views: SvtViewSettings = SvtViewSettings()
    """The views; the defaults are the paper's times and the released boxes and colours."""
    head: SvtHeadSettings = SvtHeadSettings()
    """The projection head."""
    loss: SvtLossSettings = SvtLossSettings()
    """The loss."""
    teacher_momentum: float = Field(default=0.996, ge=0, le=1)
    """Initial momentum of the teacher's moving average; it grows to 1 along half a cosine."""
    training: TrainingSettings = TrainingSettings(
        epochs=20,
        batch_size=32,
        optimiser=OptimiserSettings(lr=5e-4, lr_batch=256, weight_decay=0.04, final_weight_decay=0.1),
        schedule=ScheduleSettings(warmup_fraction=0.25, final_factor=0.016),
        clip_each_norm=3.0,
    )
    """Training settings; the defaults are the paper's, with the learning rate scaled as released: 6.25e-5 at 32
    videos, down to 1e-6."""
    monitor: Aside[MonitorSettings] = MonitorSettings()
    """Accuracy of nearest neighbours by the teacher's features, while it is trained."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<source>/svt-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check the source of the videos, and that the views give pairs."""
        super().model_post_init(context)
        if self.training.ema_decay is not None:
            raise ConfigError("training.ema_decay is given, and the teacher is such an average; set teacher_momentum")
        num_locals = len(self.views.local_frames)
        if not view_pairs(self.loss.routes, num_locals=num_locals):
            raise ConfigError(
                f"loss.routes {list(self.loss.routes)} makes no pair with {num_locals} local views; "
                "give more views.local_frames, or add 'g2g'"
            )
        if self.loss.centering == "reversal" and min(self.views.num_frames) < 2:
            raise ConfigError(
                f"loss.centering 'reversal' plays views backwards, and one of {list(self.views.num_frames)} frames "
                "is its own reversal; give each view 2 frames or more"
            )
