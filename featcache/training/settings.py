"""Settings of the training loop, shared by every ``train`` command; imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.errors import ConfigError
from featcache.machine import Matmul

Precision = Literal["float32", "bfloat16"]


class OptimiserSettings(Settings):
    """The optimiser and its hyperparameters."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """``adamw``, ``sgd`` or ``lars``."""
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate, for a batch size of ``lr_batch``."""
    lr_batch: int | None = Field(default=None, ge=1)
    """Batch size to which ``lr`` refers: the learning rate is scaled by batch size / lr_batch; null: not scaled."""
    weight_decay: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Weight decay: decoupled for AdamW, otherwise as ``torch.optim`` and timm apply it."""
    final_weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Value that the weight decay reaches at the end of the run, along half a cosine; null: constant."""
    decay_all: bool = False
    """Apply weight decay to biases, norms and other one-dimensional parameters too."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD and LARS."""
    nesterov: bool = False
    """Nesterov's momentum in place of the plain one, for SGD and LARS; TimeSformer is fine-tuned with it."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.nesterov and (self.name == "adamw" or not self.momentum):
            raise ConfigError(
                f"optimiser.nesterov needs sgd or lars with a momentum above 0, not {self.name} with "
                f"{self.momentum:g}; set optimiser.name=sgd, or optimiser.nesterov=false"
            )
        if self.final_weight_decay is not None and not self.weight_decay:
            raise ConfigError("optimiser.final_weight_decay needs a weight_decay above 0 to begin from; give one")


class ScheduleSettings(Settings):
    """The learning rate over fractional epochs."""

    kind: Literal["cosine", "constant", "step"] = "cosine"
    """``cosine`` (down to ``final_factor``), ``constant``, or ``step`` (multiplied by ``step_factor`` at each of
    ``step_fractions``)."""
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the epochs over which the learning rate rises linearly to its peak."""
    warmup_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak learning rate at which the warm-up begins."""
    final_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak learning rate at which the cosine ends."""
    step_fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Times of the steps, as shares of the epochs; only for ``step``."""
    step_factor: float = Field(default=0.1, gt=0, le=1)
    """Factor by which each step multiplies the learning rate."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if (self.kind == "step") != bool(self.step_fractions):
            raise ConfigError(
                f"schedule.kind is {self.kind!r} and schedule.step_fractions is {list(self.step_fractions)}; the kind "
                "'step' needs some, e.g. [0.7, 0.9], and any other kind needs []"
            )


class TrainingSettings(Settings):
    """Settings of one training run."""

    epochs: int = Field(default=50, ge=1)
    """Number of passes over the training videos."""
    batch_size: int = Field(default=32, ge=1)
    """Number of videos per step, all processes together."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Schedule of the learning rate."""
    lr_factors: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Factors of the learning rate, by what the names of the parameters of the trained module begin with, e.g.
    ``{head.: 10}``; of several that fit, the longest counts."""
    precision: Precision = "float32"
    """Dtype of the forward and backward passes; parameters stay float32."""
    accumulate: int = Field(default=1, ge=1)
    """Number of batches whose mean gradient makes one step."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; null: no clipping."""
    clip_each_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of each single parameter (DINO); null: no clipping."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then evaluated; null: none."""
    seeds: Aside[tuple[int, ...]] = (0,)
    """Seeds: one run per seed; every random draw of a run is a function of its seed."""
    device: Aside[str] = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    matmul: Aside[Matmul] = "highest"
    """Precision of float32 matrix products and convolutions on a GPU: ``highest``, or ``high`` for TF32, which is
    faster and rounds inputs to 10 bits."""
    threads: int = Field(default=0, ge=0)
    """CPU threads per process; 0: all cores, divided among the processes. The same number gives the same bits."""
    checkpoint_seconds: Aside[float] = Field(default=300.0, ge=0, allow_inf_nan=False)
    """Longest time between checkpoints, in seconds; there is always one at the end of a run."""
    keep_epochs: Aside[tuple[Annotated[int, Field(ge=1)], ...]] = ()
    """Epochs after which the network is written too, e.g. ``[50, 100]``: ``seed-N/epoch-050.safetensors``, a weights
    file like the one at the end."""
    log_steps: Aside[int] = Field(default=50, ge=1)
    """Number of steps after which a line with their means is added to ``steps.jsonl``; ``log.jsonl`` has a line per
    epoch."""
    tensorboard: Aside[bool] = True
    """Write TensorBoard events beside ``log.jsonl``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}; give one or more different numbers")
        if late := [epoch for epoch in self.keep_epochs if epoch > self.epochs]:
            raise ConfigError(
                f"training.keep_epochs names epoch {late[0]} of a run of {self.epochs}; take it out, or set "
                f"training.epochs={max(late)} or more"
            )
        if self.clip_norm is not None and self.clip_each_norm is not None:
            raise ConfigError("training.clip_norm and training.clip_each_norm are both given; set one of them to null")

    def steps_an_epoch(self, num_batches: int) -> int:
        """Number of steps of an epoch, whose last batches are left out if they make no step.

        Args:
            num_batches: Number of batches of an epoch.

        Raises:
            ConfigError: There are fewer than a step takes.
        """
        if num_batches < self.accumulate:
            raise ConfigError(
                f"training.accumulate is {self.accumulate} and an epoch has {num_batches} batches, too few for a step; "
                f"set training.accumulate={num_batches} or less, or a training.batch_size below {self.batch_size}"
            )
        return num_batches // self.accumulate
