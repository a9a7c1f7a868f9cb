"""Settings of the probes that train a network over clips: frozen values without torch."""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from featcache.errors import ConfigError
from featcache.evaluation.settings import Optimizer, check_grid
from featcache.networks.settings import SetPredictorSettings

ClipLoss = Literal["per_clip", "mean_logits", "mean_probabilities"]

PROPOSED_LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""SCALE publishes that it searched, not where; its released rate, 3e-4, is among these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One setting of a grid of trainings.

    Attributes:
        optimizer: ``adamw`` or ``sgd`` (with momentum).
        lr: Peak learning rate, not scaled by the batch size.
        weight_decay: Of all parameters.
        batch_norm: Whether vectors pass a BatchNorm without affine parameters before the classifier.
        batch_size: Videos a step.
    """

    optimizer: Optimizer
    lr: float
    weight_decay: float
    batch_norm: bool
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTraining:
    """How a classifier of clips is trained, and the grid it is chosen from.

    A grid of one is trained without a choice. SCALE's whole grid: ``weight_decays`` 0, 1e-4 and 1e-2, ``batch_sizes``
    128 and 512, both ``optimizers``, ``batch_norms`` off and on.

    Attributes:
        lrs: Peak learning rates.
        weight_decays: Weight decays.
        batch_sizes: Videos a step; batches of an epoch differ by at most one video, and none is dropped.
        optimizers: ``adamw``, ``sgd`` or both.
        batch_norms: BatchNorm without affine parameters before the classifier: off, on or both.
        seeds: Each seed draws its own initial weights, order of batches, clips and dropout.
        epochs: Passes over the training videos.
        num_clips: Clips drawn of each video a step, anew each epoch; all of a video that has fewer.
        loss: ``per_clip``: mean cross-entropy of the clips. ``mean_logits``, ``mean_probabilities``: cross-entropy of
            a video's mean. For numbers the squared error, of clips or of the mean.
        momentum: Of SGD.
        schedule: ``cosine`` to 0 by fractional epoch, or ``constant``; both after the warm-up.
        warmup_fraction: Share of the epochs in which the rate rises linearly from 0.
        validation_fraction: Share of each class's training videos held out to choose from the grid.
        as_released: Also report the best epoch on the test videos, as SCALE's released code does. It is a variant of
            that name and never the reported number, for it is chosen by the labels that it is scored on.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    lrs: tuple[float, ...] = PROPOSED_LRS
    weight_decays: tuple[float, ...] = (0.0,)
    batch_sizes: tuple[int, ...] = (512,)
    optimizers: tuple[Optimizer, ...] = ("adamw",)
    batch_norms: tuple[bool, ...] = (False,)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 60
    num_clips: int = 8
    loss: ClipLoss = "per_clip"
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = 0.05
    validation_fraction: float = 0.2
    as_released: bool = False

    def __post_init__(self) -> None:
        check_grid(self, several=("lrs", "weight_decays", "batch_sizes", "optimizers", "batch_norms", "seeds"))
        if min(self.batch_sizes) < 4:
            raise ConfigError(f"batch_sizes is {self.batch_sizes}; BatchNorm needs at least 4")
        if self.num_clips < 1:
            raise ConfigError(f"num_clips is {self.num_clips}; draw at least 1 clip of a video, 8 are usual")
        if self.loss not in (known := ("per_clip", "mean_logits", "mean_probabilities")):
            raise ConfigError(f"loss is {self.loss!r}; choose from {', '.join(known)}")

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The grid, without the seeds: optimiser by BatchNorm by weight decay by batch size by learning rate."""
        grid = itertools.product(self.optimizers, self.batch_norms, self.weight_decays, self.batch_sizes, self.lrs)
        return tuple(
            Candidate(optimizer=optimizer, batch_norm=batch_norm, weight_decay=decay, batch_size=batch_size, lr=lr)
            for optimizer, batch_norm, decay, batch_size, lr in grid
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSettings:
    """A classifier on each clip's vector and what an MLP makes of it (SCALE's baseline "MLP").

    Attributes:
        hidden: Widths of the MLP's layers, with ReLU between them.
        training: How it is trained.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    hidden: tuple[int, ...] = (2048, 2048, 512)
    training: ClipTraining = field(default_factory=ClipTraining)

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden is {self.hidden}; give the width of each layer, e.g. 2048,2048,512")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSettings:
    """A set predictor trained from random weights with the classifier (SCALE's baseline "Transformer").

    Attributes:
        predictor: Its shape.
        refined: Append each clip's refined token to what the classifier sees.
        training: How it is trained.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    predictor: SetPredictorSettings = field(default_factory=SetPredictorSettings)
    refined: bool = False
    training: ClipTraining = field(default_factory=ClipTraining)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLinearSettings:
    """A linear classifier on each clip and the summary of its video by a frozen predictor (SCALE_linear).

    A setting of the grid costs one linear layer, so optimisers and BatchNorm are searched by default too.

    Attributes:
        model: Folder of a run of ``featcache train scale``. Where it holds several seeds, each seed of the probe takes
            the predictor of the same seed.
        refined: Append each clip's refined token to what the classifier sees.
        training: How the classifier is trained.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: str | None = None
    refined: bool = False
    training: ClipTraining = field(
        default_factory=lambda: ClipTraining(optimizers=("adamw", "sgd"), batch_norms=(False, True))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFtSettings:
    """A pre-trained predictor trained further with the classifier; the backbone stays as it is (SCALE_ft).

    Attributes:
        model: Folder of a run of ``featcache train scale``, as in :class:`ScaleLinearSettings`.
        refined: Append each clip's refined token to what the classifier sees.
        training: How they are trained.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: str | None = None
    refined: bool = False
    training: ClipTraining = field(default_factory=ClipTraining)
