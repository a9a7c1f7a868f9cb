"""Settings of the probes: frozen values that import no torch, so that a configuration tree can contain them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from featcache.errors import ConfigError
from featcache.evaluation.pooling import Pool, check_pool
from featcache.metrics.settings import NUM_NEIGHBOURS, TEMPERATURE
from featcache.networks.settings import SetPredictorSettings

Views = Literal["mean", "vote"]
Backend = Literal["torch", "faiss"]
ClipLoss = Literal["per_clip", "mean_logits", "mean_probabilities"]

PROPOSED_LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""SCALE does not publish its search range; its released learning rate, 3e-4, is among these."""

Optimizer = Literal["sgd", "adamw"]

LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnSettings:
    """Weighted nearest neighbours (Wu et al., CVPR 2018; as in DINO and SVT).

    Attributes:
        ks: Numbers of neighbours, all from one search. The first is the reported one, fixed before the test labels
            are read; the others are in the result's table.
        temperature: A neighbour of cosine s votes with weight exp(s / temperature).
        views: ``mean``: one vector per video, the mean of its rows. ``vote``: every row searches among all training
            rows, and the class shares of a video's rows are averaged.
        center: Subtract from each split its own mean vector before normalising, as SCALE does; ``None``: only with a
            model.
        model: Folder of a run of ``featcache train scale``: each row is joined with the summary of its video, [x; CLS]
            (SCALE_kNN). ``None``: rows as they are.
        model_seeds: Seeds of that run; each gives a score of its own. A run of one seed is used for all of them.
        backend: ``torch``: exact search by chunked matrix products. ``faiss``: its flat index, also exact; on a GPU
            only if it has agreed with torch.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    ks: tuple[int, ...] = (NUM_NEIGHBOURS, 1, 5, 10)
    temperature: float = TEMPERATURE
    views: Views = "mean"
    center: bool | None = None
    backend: Backend = "torch"
    model: str | None = None
    model_seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        _check_ks(self.ks)
        if not self.model_seeds or len(set(self.model_seeds)) < len(self.model_seeds):
            raise ConfigError(f"model_seeds is {self.model_seeds}; give one or more different seeds")
        # exp(s / temperature) is taken in float64, which overflows below about 0.0015.
        if not (math.isfinite(self.temperature) and self.temperature >= 0.002):
            raise ConfigError(f"temperature is {self.temperature}; it must be at least 0.002, 0.07 is usual")

    @property
    def is_centred(self) -> bool:
        """Whether each split's own mean is subtracted."""
        return self.model is not None if self.center is None else self.center


def _check_ks(ks: tuple[int, ...]) -> None:
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ConfigError(f"ks is {ks}; give one or more different numbers of neighbours, e.g. 20")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings:
    """Retrieval of training videos by test videos (R@k, as in VCOP, PRP and RSPNet).

    Attributes:
        ks: Numbers of nearest training videos among which one must have the query's class; R@1, by which runs are
            compared, is always among the results.
        pool: ``mean``: maps and tokens are averaged over all positions. ``vcop``: the largest value of each 2 x 2
            positions of each time of a map, one after another: the 9,216 channels of VCOP and PRP out of maps of
            2 x 7 x 7 x 512.
        backend: ``torch``: exact search by chunked matrix products. ``faiss``: its flat index, also exact; on a GPU
            only if it has agreed with torch.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    pool: Pool = "mean"
    backend: Backend = "torch"

    def __post_init__(self) -> None:
        _check_ks(self.ks)
        check_pool(self.pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One setting of the linear probe's grid.

    Attributes:
        optimizer: ``sgd`` (with momentum) or ``adamw`` (betas 0.9 and 0.999, eps 1e-8).
        lr: Peak learning rate, not scaled by the batch size.
        weight_decay: As ``torch.optim`` applies it, to weight and bias.
        batch_norm: Whether features pass a BatchNorm without affine parameters first.
    """

    optimizer: Optimizer
    lr: float
    weight_decay: float
    batch_norm: bool


def check_grid(settings: "LinearSettings | ClipTraining", *, several: Sequence[str]) -> None:
    """Check the settings that all trained probes have in common.

    Args:
        settings: Settings of a probe.
        several: Names of the fields that hold one or more different values.

    Raises:
        ConfigError: A value is out of its range; names the field.
    """
    for name in several:
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name} is {values}; give one or more different values")
    for name, known in (("optimizers", ("sgd", "adamw")), ("schedule", ("cosine", "constant"))):
        given = getattr(settings, name)
        if set((given,) if isinstance(given, str) else given) - set(known):
            raise ConfigError(f"{name} is {given!r}; choose from {', '.join(known)}")
    if not all(math.isfinite(lr) and lr > 0 for lr in settings.lrs):
        raise ConfigError(f"lrs is {settings.lrs}; learning rates must be positive")
    if not all(math.isfinite(decay) and decay >= 0 for decay in settings.weight_decays):
        raise ConfigError(f"weight_decays is {settings.weight_decays}; weight decays must not be negative")
    if settings.epochs < 1:
        raise ConfigError(f"epochs is {settings.epochs}; it must be at least 1")
    if not 0 <= settings.momentum < 1:
        raise ConfigError(f"momentum is {settings.momentum}; it must be in [0, 1)")
    if not 0 <= settings.warmup_fraction < 1:
        raise ConfigError(f"warmup_fraction is {settings.warmup_fraction}; it must be in [0, 1)")
    if not 0 < settings.validation_fraction < 1:
        raise ConfigError(f"validation_fraction is {settings.validation_fraction}; it must be between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSettings:
    """A linear probe with a whole grid of heads in one pass; the default grid has 52.

    Attributes:
        lrs: Peak learning rates.
        weight_decays: Weight decays.
        optimizers: ``sgd``, ``adamw`` or both.
        batch_norms: BatchNorm without affine parameters before the head: off, on or both.
        seeds: Each seed draws its own initial weights and its own order of batches, the same for every head.
        epochs: Number of passes over the training rows.
        batch_size: Rows per step; the batches of an epoch differ by at most one row, and none is dropped.
        momentum: Momentum of SGD.
        schedule: ``cosine`` to 0 by fractional epoch, or ``constant``; both after the warm-up.
        warmup_fraction: Share of the epochs in which the learning rate rises linearly from 0.
        validation_fraction: Share of each class's training videos held out to choose the head. The chosen head is
            trained again on all training videos; test videos are never used for the choice.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    lrs: tuple[float, ...] = LEARNING_RATES
    weight_decays: tuple[float, ...] = (0.0,)
    optimizers: tuple[Optimizer, ...] = ("sgd", "adamw")
    batch_norms: tuple[bool, ...] = (False, True)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 30
    batch_size: int = 128
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = 0.05
    validation_fraction: float = 0.2

    def __post_init__(self) -> None:
        check_grid(self, several=("lrs", "weight_decays", "optimizers", "batch_norms", "seeds"))
        if self.batch_size < 4:
            raise ConfigError(f"batch_size is {self.batch_size}; BatchNorm needs at least 4")

    @property
    def heads(self) -> tuple[Head, ...]:
        """The grid, without the seeds: optimiser by BatchNorm by weight decay by learning rate."""
        grid = itertools.product(self.optimizers, self.batch_norms, self.weight_decays, self.lrs)
        return tuple(
            Head(optimizer=optimizer, batch_norm=batch_norm, weight_decay=decay, lr=lr)
            for optimizer, batch_norm, decay, lr in grid
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeSettings:
    """Ridge regression of numbers.

    Attributes:
        alphas: Penalties to choose from, on standardised channels.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    alphas: tuple[float, ...] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)

    def __post_init__(self) -> None:
        if not self.alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in self.alphas):
            raise ConfigError(f"alphas is {self.alphas}; give one or more positive penalties")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One setting of a grid of trainings.

    Attributes:
        optimizer: ``adamw`` or ``sgd`` (with momentum).
        lr: Peak learning rate, not scaled by the batch size.
        weight_decay: Weight decay of all parameters.
        batch_norm: Whether vectors pass a BatchNorm without affine parameters before the classifier.
        batch_size: Number of videos per step.
    """

    optimizer: Optimizer
    lr: float
    weight_decay: float
    batch_norm: bool
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTraining:
    """Training of a classifier of clips, and the grid from which its settings are chosen.

    A grid of one is trained without a choice. SCALE's full grid has ``weight_decays`` 0, 1e-4 and 1e-2,
    ``batch_sizes`` 128 and 512, both ``optimizers``, and ``batch_norms`` off and on.

    Attributes:
        lrs: Peak learning rates.
        weight_decays: Weight decays.
        batch_sizes: Videos per step; the batches of an epoch differ by at most one video, and none is dropped.
        optimizers: ``adamw``, ``sgd`` or both.
        batch_norms: BatchNorm without affine parameters before the classifier: off, on or both.
        seeds: Each seed draws its own initial weights, order of batches, clips and dropout.
        epochs: Number of passes over the training videos.
        num_clips: Number of clips drawn per video and step, anew each epoch; all clips if a video has fewer.
        loss: ``per_clip``: mean cross-entropy of the clips. ``mean_logits``, ``mean_probabilities``: cross-entropy of
            a video's mean. For regression the squared error, of clips or of the mean.
        momentum: Momentum of SGD.
        schedule: ``cosine`` to 0 by fractional epoch, or ``constant``; both after the warm-up.
        warmup_fraction: Share of the epochs in which the learning rate rises linearly from 0.
        validation_fraction: Share of each class's training videos held out to choose from the grid.
        as_released: Also report the best epoch on the test videos, as SCALE's released code does. It is a variant of
            that name and never the reported number, because it is chosen on the labels on which it is scored.
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
    """A classifier on each clip's vector and an MLP's output for it (SCALE's baseline "MLP").

    Attributes:
        hidden: Widths of the MLP's layers, with ReLU between them.
        training: Training settings.
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
        predictor: Shape of the predictor.
        refined: Append each clip's refined token to the classifier's input.
        training: Training settings.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    predictor: SetPredictorSettings = field(default_factory=SetPredictorSettings)
    refined: bool = False
    training: ClipTraining = field(default_factory=ClipTraining)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLinearSettings:
    """A linear classifier on each clip and the summary of its video by a frozen predictor (SCALE_linear).

    A point of the grid costs only one linear layer, so optimisers and BatchNorm are searched by default too.

    Attributes:
        model: Folder of a run of ``featcache train scale``. If it holds several seeds, each seed of the probe takes
            the predictor of the same seed.
        refined: Append each clip's refined token to the classifier's input.
        training: Training settings of the classifier.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: str | None = None
    refined: bool = False
    training: ClipTraining = field(
        default_factory=lambda: ClipTraining(optimizers=("adamw", "sgd"), batch_norms=(False, True))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFtSettings:
    """A pre-trained predictor trained further with the classifier; the backbone stays frozen (SCALE_ft).

    Attributes:
        model: Folder of a run of ``featcache train scale``, as in :class:`ScaleLinearSettings`.
        refined: Append each clip's refined token to the classifier's input.
        training: Training settings of predictor and classifier.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model: str | None = None
    refined: bool = False
    training: ClipTraining = field(default_factory=ClipTraining)
