"""Settings of SCALE's pre-training, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.errors import ConfigError
from featcache.loaders.settings import ClipSetSettings, Coordinates
from featcache.networks.settings import SetPredictorSettings
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

SetLoss = Literal["infonce", "regression", "clustering"]


class ScaleHeadSettings(Settings):
    """Sizes of the heads, used only in pre-training: linear layers without biases, with GELU between them."""

    width: int = Field(default=128, ge=1)
    """Width of the space in which clips and sets are compared."""
    target_hidden: int = Field(default=2048, ge=1)
    """Hidden width of the target head, which reads stored vectors."""
    target_layers: int = Field(default=3, ge=1)
    """Number of layers of the target head."""
    hidden: int = Field(default=4096, ge=1)
    """Hidden width of the heads on refined clips and on the set's summary token."""
    layers: int = Field(default=2, ge=1)
    """Number of layers of these two heads; the released code has 2, the paper says 3."""


class ScaleLossSettings(Settings):
    """The two losses: masked clip modelling (MCM) and the comparison of two sets of a video (SET)."""

    mcm_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of MCM; 0: only SET. The total is divided by the sum of the weights, as released."""
    set_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of SET; 0: only MCM."""
    mask_ratio: float = Field(default=0.25, ge=0, le=1)
    """Probability that a clip is masked, independent of the other clips; SET uses the masked sets too."""
    mcm_temperature: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Temperature of MCM."""
    mcm_per: Literal["clip", "video"] = "clip"
    """``clip``: average MCM over the masked clips, as released; ``video``: sum it over the masked clips of a video, as
    the paper's Eq. 6, and average over videos. With 8 clips per set a quarter of which is masked, ``video`` weighs MCM
    about four times as much."""
    symmetric: bool = False
    """MCM in both directions, among the predictions of all clips too, as in the paper's Eqs. 2, 3 and 6; the released
    code goes only from predictions to targets."""
    set_loss: SetLoss = "infonce"
    """``infonce``; ``regression`` to the other set's projection; ``clustering``: predict the other set's prototype."""
    set_temperature: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Temperature of SET; with ``clustering``, of the prototypes' logits."""
    num_prototypes: int = Field(default=512, ge=2)
    """``clustering``: number of prototypes."""
    sinkhorn_epsilon: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """``clustering``: smoothness of the assignment (SwAV)."""
    sinkhorn_steps: int = Field(default=3, ge=1)
    """``clustering``: number of normalisations of the assignment."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.mcm_weight + self.set_weight == 0:
            raise ConfigError("loss.mcm_weight and loss.set_weight are both 0; give one of them a weight")
        if self.mcm_weight and not self.mask_ratio:
            raise ConfigError("loss.mask_ratio is 0, and MCM learns from masked clips; raise it, or set mcm_weight=0")


class ScaleSettings(Settings):
    """Settings of ``featcache train scale``: a set predictor pre-trained on a store of clips."""

    command: Literal["train-scale"] = "train-scale"
    """The command this file repeats."""
    sets: ClipSetSettings
    """The stored clips to train on."""
    clips_per_set: int = Field(default=8, ge=1)
    """Number of clips K in each of the two sets of a video; a video with fewer than 2 K clips gives two sets of half
    its clips."""
    coordinates: Coordinates = "true"
    """Coordinates: ``true``, or for comparison ``shuffled`` among the clips of each video, or ``zero``."""
    predictor: SetPredictorSettings = SetPredictorSettings()
    """The set predictor; the default is the released one with the paper's positions."""
    heads: ScaleHeadSettings = ScaleHeadSettings()
    """The heads, which are dropped after pre-training."""
    loss: ScaleLossSettings = ScaleLossSettings()
    """The losses."""
    training: TrainingSettings = TrainingSettings(
        epochs=500,
        batch_size=512,
        optimiser=OptimiserSettings(lr=3e-4, weight_decay=1e-4),
        schedule=ScheduleSettings(warmup_fraction=0.05),
    )
    """Training settings; the defaults are the published ones, with a warm-up over 5 % of the steps."""
    compile: bool | Literal["objective"] = False
    """Compile the predictor with ``torch.compile``, or with ``objective`` the heads and losses too; this takes a minute
    or two and pays off in long runs on a GPU."""
    draws: Literal["host", "device"] = "host"
    """Where the sets of a batch are drawn: by the CPU ahead of time, or by the device of the training; each kind of
    device draws other sets."""
    batched_seeds: Aside[bool] = False
    """Train all seeds as one stack, each on its own batches; this saves kernel launches on a GPU, and nothing on a
    CPU."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<store>/scale-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if not self.batched_seeds:
            return
        if self.training.clip_norm is not None:
            raise ConfigError(
                "training.clip_norm bounds the gradient of one seed, and batched_seeds trains several as one; leave "
                "one of them out"
            )
        if self.training.optimiser.name == "lars":
            raise ConfigError(
                "training.optimiser.name lars looks at whole layers of one seed, and batched_seeds trains several as "
                "one; choose adamw or sgd, or leave batched_seeds out"
            )
        if self.compile:
            raise ConfigError("compile and batched_seeds do not go together; leave one of them out")
