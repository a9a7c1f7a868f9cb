"""Settings of the training loop, without torch: what every ``train`` command shares."""

from typing import Annotated, Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.errors import ConfigError
from featcache.machine import Matmul

Precision = Literal["float32", "bfloat16"]


class OptimiserSettings(Settings):
    """Which optimiser, and how strongly it pulls."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """``adamw``, ``sgd`` (with plain momentum) or ``lars``."""
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate at ``lr_batch`` items a step."""
    lr_batch: int | None = Field(default=None, ge=1)
    """Items a step at which ``lr`` holds: the rate is scaled by batch / lr_batch; null: not scaled."""
    weight_decay: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Decoupled for AdamW, as ``torch.optim`` and timm apply it otherwise."""
    final_weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Where half a cosine over the run takes ``weight_decay``; null: it stays."""
    decay_all: bool = False
    """Decay biases, norms and other one-dimensional parameters too."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD and LARS."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if self.final_weight_decay is not None and not self.weight_decay:
            raise ConfigError("optimiser.final_weight_decay needs a weight_decay above 0 to begin from; give one")


class ScheduleSettings(Settings):
    """The learning rate over fractional epochs."""

    kind: Literal["cosine", "constant", "step"] = "cosine"
    """``cosine`` to ``final_factor``, ``constant``, or ``step``: times ``step_factor`` at each of
    ``step_fractions``."""
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the epochs over which the rate rises linearly to its peak, so that a shorter run has a shorter one."""
    warmup_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak where the warm-up begins."""
    final_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak where the cosine ends."""
    step_fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Where the steps are, as shares of the epochs; for ``step`` alone."""
    step_factor: float = Field(default=0.1, gt=0, le=1)
    """What a step multiplies the rate with."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if (self.kind == "step") != bool(self.step_fractions):
            raise ConfigError(
                f"schedule.kind is {self.kind!r} and schedule.step_fractions is {list(self.step_fractions)}; the kind "
                "'step' needs some, e.g. [0.7, 0.9], and any other kind needs []"
            )


class TrainingSettings(Settings):
    """One run of the loop."""

    epochs: int = Field(default=50, ge=1)
    """Passes over the training videos."""
    batch_size: int = Field(default=32, ge=1)
    """Videos a step, of all processes together."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser."""
    schedule: ScheduleSettings = ScheduleSettings()
    """The learning rate over time."""
    precision: Precision = "float32"
    """Dtype of forward and backward; parameters stay float32."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose mean gradient makes one step."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; null: as it comes."""
    clip_each_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of each parameter by itself (DINO); null: as it comes."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential average of the weights too, and evaluate it."""
    seeds: Aside[tuple[int, ...]] = (0,)
    """One run a seed; every draw of a run is a function of its seed."""
    device: Aside[str] = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    matmul: Aside[Matmul] = "highest"
    """Products of float32 on a GPU, convolutions too: ``highest``, or ``high`` for TF32, which is faster and rounds to
    10 bits."""
    threads: int = Field(default=0, ge=0)
    """Threads of a process on CPU; 0: all cores, divided among processes. The same number gives the same bits."""
    checkpoint_seconds: Aside[float] = Field(default=300.0, ge=0, allow_inf_nan=False)
    """Longest time between checkpoints; there is one at the end of a run in any case."""
    tensorboard: Aside[bool] = True
    """Write TensorBoard events beside ``log.jsonl``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}; give one or more different numbers")
        if self.clip_norm is not None and self.clip_each_norm is not None:
            raise ConfigError("training.clip_norm and training.clip_each_norm are both given; set one of them to null")
