"""Settings of AdViSe's two stages, without torch."""

import math
from typing import Literal

from pydantic import Field

from featcache.config import Aside, Input, Settings
from featcache.data.selection import DecodedVideosSettings
from featcache.errors import ConfigError
from featcache.loaders.settings import BankSettings
from featcache.machine import Matmul
from featcache.networks.settings import TmmSettings
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings


class PretextClipSettings(Settings):
    """Clips of the playback-rate task (PRP's discriminative branch as AdViSe uses it)."""

    rates: tuple[int, ...] = (1, 2, 4, 8)
    """Playback rates; the class is the position in this list."""
    num_frames: int = Field(default=8, ge=2)
    """Number of frames per clip."""
    base_stride: int = Field(default=2, ge=1)
    """Distance between frames at rate 1, in source frames."""
    speed_jitter: float = Field(default=0.2, ge=0, lt=1)
    """Each clip's speed is multiplied by a factor from 1 - jitter to 1 + jitter."""
    num_clips: int = Field(default=4, ge=1)
    """Number of clips per video and step, each with its own rate."""
    starts: Literal["fitting", "anywhere"] = "fitting"
    """First frames: ``fitting``: so that a clip at rate 1 fits its video; ``anywhere``: any frame (the baseline)."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """``cross_entropy``, or ``bce``: one logistic loss per rate, averaged (the baseline)."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Share of each target that is spread over all rates."""
    sequential: bool = True
    """Run forward and backward pass for one clip per video at a time and sum the gradients; otherwise for all clips
    at once."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if len(self.rates) < 2 or len(set(self.rates)) < len(self.rates) or min(self.rates) < 1:
            raise ConfigError(f"clips.rates is {list(self.rates)}; give two or more different rates of at least 1")


class AdviseSettings(Settings):
    """Settings of ``featcache train advise``: the playback-rate pretext on a temporal module."""

    command: Literal["train-advise"] = "train-advise"
    """The command this file repeats."""
    bank: BankSettings
    """The frame bank that holds the maps."""
    tmm: TmmSettings = TmmSettings()
    """The temporal module; the default is the released one."""
    clips: PretextClipSettings = PretextClipSettings()
    """Clips and their rates."""
    training: TrainingSettings = TrainingSettings(
        epochs=800,
        batch_size=32,
        optimiser=OptimiserSettings(lr=1e-3, lr_batch=64, weight_decay=1e-6, decay_all=True),
        schedule=ScheduleSettings(warmup_fraction=5 / 800),
    )
    """Training settings; the defaults are the released configuration for UCF101."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<store>/advise-<hash>``."""


class TmmFineTuneSettings(Settings):
    """Settings of ``featcache train tmm``: a temporal module and a new head trained on labels, then tested."""

    command: Literal["train-tmm"] = "train-tmm"
    """The command this file repeats."""
    bank: BankSettings
    """The frame bank that holds the maps."""
    label: Aside[str] = "label"
    """Label column."""
    init: Input[str | None] = None
    """Folder of a ``train advise`` run whose module is the initial one; null: train from scratch."""
    tmm: TmmSettings | None = None
    """The temporal module; null: that of ``init``, or the released one."""
    compare_scratch: Aside[bool] = False
    """With ``init``: also train from scratch with the same seeds, and report the difference (the paper's Delta)."""
    sampler: Literal["random", "spread"] = "random"
    """Training clips: ``random``: from a random start at ``stride``; ``spread``: over the whole video (Diving48)."""
    num_frames: int = Field(default=8, ge=1)
    """Number of frames per clip."""
    stride: int = Field(default=8, ge=1)
    """Distance between a clip's frames, in source frames."""
    speed_jitter: float = Field(default=0.0, ge=0, lt=1)
    """``random``: each training clip's stride is multiplied by a factor from 1 - jitter to 1 + jitter, 0.2 as released;
    that of test clips is not."""
    num_clips: int = Field(default=1, ge=1)
    """Number of training clips per video and step."""
    frozen: bool = False
    """Train only the head: the module stays frozen, in evaluation mode. With ``tmm.head_hidden`` null this is a linear
    probe."""
    labels_per_class: Aside[int | None] = Field(default=None, ge=1)
    """Number of training videos per class, the same videos for all runs; null: all."""
    test_clips: Aside[int] = Field(default=10, ge=1)
    """Number of test clips per video, equally spaced; together with the store's crops they are the views."""
    test_splits: Aside[tuple[str, ...] | None] = None
    """Splits to score; null: all others."""
    order_test: Aside[bool] = True
    """Also score test clips with frames reversed, shuffled, and one frame repeated."""
    training: TrainingSettings = TrainingSettings(
        epochs=50,
        batch_size=32,
        optimiser=OptimiserSettings(lr=1e-3, lr_batch=64, weight_decay=0.05, decay_all=True),
        schedule=ScheduleSettings(warmup_fraction=0.1),
    )
    """Training settings. The paper does not state the optimisation of this stage; the defaults are our choice."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<store>/tmm-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.compare_scratch and self.init is None:
            raise ConfigError("compare_scratch needs init: without it every run is from scratch")
        if self.speed_jitter and self.sampler == "spread":
            raise ConfigError(
                "speed_jitter is for sampler 'random'; a clip of sampler 'spread' has no stride to change"
            )


class R3d50Settings(DecodedVideosSettings):
    """Settings of ``featcache train r3d50``: the playback-rate pretext on an R3D-50, end to end on pixels."""

    command: Literal["train-r3d50"] = "train-r3d50"
    """The command this file repeats."""
    train_split: Aside[str] = "train"
    """Split to train on; a source without splits is used as a whole."""
    size: int = Field(default=224, ge=32)
    """Side of a frame in pixels."""
    width: int = Field(default=64, ge=4)
    """Number of channels of the network's stem; its stages have 4, 8, 16 and 32 times as many."""
    head_hidden: int = Field(default=4096, ge=1)
    """Width between the head's two layers."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate before the head's last layer."""
    clips: PretextClipSettings = PretextClipSettings(base_stride=1, starts="anywhere", loss="bce", label_smoothing=0.0)
    """Clips and their rates."""
    training: TrainingSettings = TrainingSettings(
        epochs=200,
        batch_size=32,
        optimiser=OptimiserSettings(name="sgd", lr=0.04, lr_batch=64, momentum=0.9, weight_decay=5e-4, decay_all=True),
        schedule=ScheduleSettings(warmup_fraction=0.05, warmup_factor=0.025),
    )
    """Training settings; the defaults are the released configuration of the baseline."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<source>/r3d50-<hash>``."""


class AdviseCostSettings(Settings):
    """Settings of ``cost-advise``: what a network of AdViSe's cost tables takes, on made-up clips, without training."""

    command: Literal["cost-advise"] = "cost-advise"
    """The command this file repeats."""
    network: Literal["tmm", "r3d50", "backbone"] = "tmm"
    """``tmm``: a pre-training step of a temporal module, with ``backbone`` in the loop; ``r3d50``: a step of an R3D-50,
    end to end; ``backbone``: a forward pass of the image model alone."""
    backbone: str | None = None
    """Registry name of the frozen image model; null: maps of ``shape`` are given."""
    weights: str = "random"
    """Weights of the image model, on whose values no cost depends: ``random``, ``default`` or a file."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the image model's forward pass; what is trained stays float32."""
    shape: tuple[int, int, int] = (14, 14, 768)
    """Height, width and channels of the maps where there is no ``backbone``."""
    grid: int | None = Field(default=None, ge=1)
    """Side of the map after average pooling (SFU); null: as it is."""
    channels: int | None = Field(default=None, ge=1)
    """Number of channels after average pooling of neighbours (SFU); null: as they are."""
    size: int = Field(default=224, ge=1)
    """Side of a frame in pixels."""
    tmm: TmmSettings = TmmSettings()
    """The temporal module; the default is the released one."""
    clips: PretextClipSettings = PretextClipSettings()
    """Clips of a step: frames per clip, clips per video, and whether one clip follows the other."""
    batch_size: int = Field(default=8, ge=1)
    """Number of videos per step; the default is that of one of the released configuration's four GPUs."""
    num_steps: int = Field(default=0, ge=0)
    """Number of steps whose time and memory are measured, after one that is not; 0: only count."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    matmul: Matmul = "highest"
    """Precision of float32 matrix products and convolutions on a GPU: ``highest``, or ``high`` for TF32."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0: all cores."""
    out: str | None = None
    """Folder of the result; null: ``runs/<network>/cost-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.network == "backbone" and self.backbone is None:
            raise ConfigError("network is 'backbone' and backbone is null; name one, e.g. clip-l14")
        if self.network == "r3d50" and self.backbone is not None:
            raise ConfigError(
                f"network is 'r3d50', which reads pixels, and backbone is {self.backbone!r}; set it to null"
            )


def max_bank_stride(*, base_stride: int, speed_jitter: float) -> int:
    """The coarsest bank that plays the slowest clip without repeating rows."""
    return max(1, math.floor(base_stride * (1 - speed_jitter) + 1e-9))


class TmmEvaluationSettings(Settings):
    """Settings of ``featcache evaluate tmm``: a trained module and head on another store, without training."""

    command: Literal["evaluate-tmm"] = "evaluate-tmm"
    """The command this file repeats."""
    bank: BankSettings
    """The frame bank that holds the maps; it must have as many channels as the run was trained on."""
    run: str
    """Folder of a ``train tmm`` run, whose clips and views are used."""
    label: str | None = None
    """Label column; null: that of the run."""
    test_splits: tuple[str, ...] | None = None
    """Splits to score; null: all but the training split."""
    order_test: bool = True
    """Also score test clips with frames reversed, shuffled, and one frame repeated."""
    device: str = "auto"
    """Device on which the module runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder of the result; null: ``runs/<store>/plugged-<hash>``."""
