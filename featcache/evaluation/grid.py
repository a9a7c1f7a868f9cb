"""Many linear heads trained at once on the same features: one pass over the rows for a whole grid of settings.

Heads with the same optimiser and with or without BatchNorm form a block whose weights are one tensor [S, D, H, C] (S
seeds, D channels, H heads, C classes): a step is two matrix products per seed, whatever H is. Each head takes the same
steps as a ``torch.nn.Linear`` that is trained alone with ``torch.optim`` and the same batches, learning rates and
initial weights.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.evaluation.parts import NOTHING_KEPT, Due, Parts
from featcache.evaluation.settings import Head, LinearSettings
from featcache.seeding import rng_for, seed_for
from featcache.training import schedules
from featcache.training.settings import ScheduleSettings

INITIAL_DEVIATION = 0.01
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHeads:
    """Heads that share optimiser and BatchNorm.

    Attributes:
        index: Positions of the heads in the grid.
        weight: float32 [S, D, H, C].
        bias: float32 [S, 1, H, C].
        batch_norm: Whether features are first normalised with the running statistics.
    """

    index: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    batch_norm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGrid:
    """The heads after the last epoch.

    Attributes:
        blocks: The heads.
        num_heads: Number of heads H in all blocks.
        mean: Running mean of the features, float32 [S, 1, D].
        variance: Running variance, float32 [S, 1, D].
        train_loss: Mean cross-entropy over the batches of the last epoch, float32 [S, H] on CPU.
    """

    blocks: tuple[TrainedHeads, ...]
    num_heads: int
    mean: Tensor
    variance: Tensor
    train_loss: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """The softmax of each head for each row: float32 [N, D] -> [S, N, H, C]."""
        seeds, _, _, classes = self.blocks[0].weight.shape
        result = features.new_empty(seeds, len(features), self.num_heads, classes)
        for block in self.blocks:
            rows = features.expand(seeds, -1, -1)
            if block.batch_norm:
                rows = (rows - self.mean) / (self.variance + BATCH_NORM_EPS).sqrt()
            result[:, :, list(block.index)] = _logits(rows, block.weight, block.bias).softmax(dim=-1)
        return result


def learning_rate_factor(epoch: float, settings: LinearSettings) -> float:
    """Share of the peak learning rate at a fractional epoch: linear warm-up from 0, then cosine to 0 or constant."""
    schedule = ScheduleSettings(kind=settings.schedule, warmup_fraction=settings.warmup_fraction)
    return schedules.learning_rate_factor(epoch, epochs=settings.epochs, schedule=schedule)


def epoch_batches(num_rows: int, *, batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """A permutation of the rows, cut into ceil(N / batch size) batches whose sizes differ by at most one."""
    order = rng_for(seed, "linear-order", epoch).permutation(num_rows)
    return np.array_split(order, math.ceil(num_rows / batch_size))


def initial_weight(num_channels: int, num_classes: int, *, seed: int) -> Tensor:
    """Normal(0, 0.01) weights float32 [D, C], drawn on CPU; biases start at zero (as in DINO and SVT)."""
    generator = torch.Generator().manual_seed(seed_for(seed, "linear-init"))
    return torch.randn(num_channels, num_classes, generator=generator) * INITIAL_DEVIATION


@torch.no_grad()
def train_grid(
    features: Tensor,
    labels: Tensor,
    heads: Sequence[Head],
    *,
    num_classes: int,
    settings: LinearSettings,
    name: str = "grid",
    parts: Parts = NOTHING_KEPT,
    on_epochs: Callable[[float], None] = lambda done: None,
) -> TrainedGrid:
    """Train every head with every seed of ``settings`` in one pass over the features per epoch.

    The training of a head does not depend on the other heads of the grid; a head that diverges does not affect them. A
    seed draws initial weights and the order of batches, which are the same for all its heads.

    Args:
        features: float16 or float32 [N, D] on the device to train on, N >= 2.
        labels: int64 [N] in [0, ``num_classes``), same device.
        heads: The grid.
        num_classes: Number of classes C.
        settings: Seeds, epochs, batch size, momentum and schedule (its own grid is not used).
        name: Name of the training among the parts.
        parts: Where the state is kept, from which a killed training goes on.
        on_epochs: Called after each step with the fractional number of epochs done.
    """
    seeds, (num_rows, num_channels) = settings.seeds, features.shape
    init = torch.stack([initial_weight(num_channels, num_classes, seed=seed) for seed in seeds]).to(features.device)
    blocks = []
    for kind in dict.fromkeys((head.optimizer, head.batch_norm) for head in heads):
        index = [place for place, head in enumerate(heads) if (head.optimizer, head.batch_norm) == kind]
        blocks.append(_Block([heads[place] for place in index], index, init, momentum=settings.momentum))
    mean = init.new_zeros(len(seeds), 1, num_channels)
    variance = torch.ones_like(mean)
    normalised_by_any = any(block.batch_norm for block in blocks)

    loss = init.new_zeros(len(seeds), len(heads))
    state = {"mean": mean, "variance": variance, "loss": loss}
    state |= {f"{place}.{key}": each for place, block in enumerate(blocks) for key, each in block.state().items()}
    saved = parts.read(name)
    if saved is not None:
        for key, each in state.items():
            each.copy_(saved.tensors[key])
        for block in blocks:
            block.num_steps = saved.facts["num_steps"]
    is_due = Due(parts)
    for epoch in range(0 if saved is None else saved.step, settings.epochs):
        orders = [epoch_batches(num_rows, batch_size=settings.batch_size, seed=seed, epoch=epoch) for seed in seeds]
        loss.zero_()
        for step, picks in enumerate(zip(*orders, strict=True)):
            picked = torch.from_numpy(np.stack(picks)).to(features.device)
            rows, targets = features[picked].float(), labels[picked]  # [S, B, D], [S, B]
            if normalised_by_any:
                centre = rows.mean(dim=1, keepdim=True)
                normalised = rows - centre
                spread = normalised.square().mean(dim=1, keepdim=True)
                normalised.mul_((spread + BATCH_NORM_EPS).rsqrt())
                unbiased = rows.shape[1] / (rows.shape[1] - 1)
                mean.lerp_(centre, BATCH_NORM_MOMENTUM)
                variance.lerp_(spread * unbiased, BATCH_NORM_MOMENTUM)
            factor = learning_rate_factor(epoch + step / len(orders[0]), settings)
            for block in blocks:
                batch = normalised if block.batch_norm else rows
                loss[:, block.index] += block.step(batch, targets, factor) / len(orders[0])
            on_epochs(epoch + (step + 1) / len(orders[0]))
        if is_due():
            parts.write(name, step=epoch + 1, tensors=state, facts={"num_steps": blocks[0].num_steps})
    return TrainedGrid(
        blocks=tuple(block.trained() for block in blocks),
        num_heads=len(heads),
        mean=mean,
        variance=variance,
        train_loss=loss.cpu(),
    )


def iter_video_probabilities(
    grid: TrainedGrid, features: Tensor, counts: npt.NDArray[np.int64]
) -> Iterator[tuple[slice, Tensor]]:
    """The softmax averaged over each video's rows (multi-view averaging), for some whole videos at a time.

    Args:
        grid: The heads.
        features: float16 or float32 [N, D], rows grouped by video.
        counts: Number of rows per video, int64 [M], summing to N.

    Yields:
        A slice of the M videos, and float32 [S, m, H, C] for them.
    """
    seeds, _, _, classes = grid.blocks[0].weight.shape
    rows_at_once = max(1, LOGITS_AT_ONCE // (seeds * grid.num_heads * classes))
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        begin = int(ends[first] - counts[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + rows_at_once, side="right")))
        size = torch.from_numpy(counts[first:last]).to(features.device)
        owner = torch.repeat_interleave(size)
        rows = grid.probabilities(features[begin : int(ends[last - 1])].float())
        total = rows.new_zeros(seeds, last - first, grid.num_heads, classes).index_add_(1, owner, rows)
        yield slice(first, last), total / size[None, :, None, None]
        first = last


def _logits(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[S, B, D] times [S, D, H, C] plus [S, 1, H, C] -> [S, B, H, C]."""
    flat = torch.baddbmm(bias.flatten(2), rows, weight.flatten(2))
    return flat.view(*flat.shape[:2], *weight.shape[2:])


class _Block:
    """Weights and optimiser state of heads that share optimiser and BatchNorm."""

    def __init__(self, heads: Sequence[Head], index: Sequence[int], init: Tensor, *, momentum: float) -> None:
        self.index = list(index)
        self.batch_norm = heads[0].batch_norm
        self.optimizer = heads[0].optimizer
        self.momentum = momentum
        self.num_heads, self.num_classes = len(heads), init.shape[-1]
        weight = init.repeat(1, 1, len(heads))
        # Heads and classes are one flat axis, so that per-head rates broadcast along whole contiguous rows.
        self.parameters = (weight, weight.new_zeros(len(init), 1, weight.shape[-1]))  # [S, D, H * C], [S, 1, H * C]
        self.first = tuple(torch.zeros_like(parameter) for parameter in self.parameters)
        self.second = tuple(torch.zeros_like(parameter) for parameter in self.parameters)  # only for AdamW
        self.lr = init.new_tensor([head.lr for head in heads]).repeat_interleave(self.num_classes)
        self.decay = init.new_tensor([head.weight_decay for head in heads]).repeat_interleave(self.num_classes)
        self.decays = any(head.weight_decay for head in heads)
        self.num_steps = 0

    def step(self, rows: Tensor, targets: Tensor, factor: float) -> Tensor:
        """Take one step at ``factor`` times the peak learning rates; returns the mean cross-entropy, [S, H]."""
        trained = self.trained()
        error = _logits(rows, trained.weight, trained.bias).softmax(dim=-1)  # [S, B, H, C]
        truth = targets[:, :, None, None].expand(-1, -1, self.num_heads, 1)
        chosen = error.gather(-1, truth)
        # The gradient of the mean cross-entropy with respect to the logits is (softmax - one hot) / B.
        error.scatter_add_(-1, truth, chosen.new_full((), -1.0).expand_as(truth)).div_(rows.shape[1])
        flat = error.flatten(2)
        self.num_steps += 1
        update = self._sgd if self.optimizer == "sgd" else self._adamw
        for place, gradient in enumerate((rows.transpose(1, 2).bmm(flat), flat.sum(dim=1, keepdim=True))):
            update(self.parameters[place], gradient, place, self.lr * factor)
        # The clamp keeps NaN: a loss is not finite only if a head has diverged.
        return -chosen[..., 0].clamp_min(torch.finfo(torch.float32).tiny).log().mean(dim=1)

    def state(self) -> dict[str, Tensor]:
        """The tensors that change from step to step."""
        kinds = {"parameters": self.parameters, "first": self.first, "second": self.second}
        return {f"{kind}.{place}": each for kind, pair in kinds.items() for place, each in enumerate(pair)}

    def trained(self) -> TrainedHeads:
        """The heads as they are now, without a copy."""
        weight, bias = (
            parameter.view(*parameter.shape[:2], self.num_heads, self.num_classes) for parameter in self.parameters
        )
        return TrainedHeads(index=tuple(self.index), weight=weight, bias=bias, batch_norm=self.batch_norm)

    def _sgd(self, parameter: Tensor, gradient: Tensor, place: int, lr: Tensor) -> None:
        """``torch.optim.SGD`` with momentum and no dampening."""
        if self.decays:
            gradient.addcmul_(parameter, self.decay)
        velocity = self.first[place].mul_(self.momentum).add_(gradient)
        parameter.addcmul_(velocity, -lr)

    def _adamw(self, parameter: Tensor, gradient: Tensor, place: int, lr: Tensor) -> None:
        """``torch.optim.AdamW`` (Loshchilov and Hutter, ICLR 2019)."""
        beta1, beta2 = ADAM_BETAS
        if self.decays:
            parameter.mul_(1 - lr * self.decay)
        mean = self.first[place].lerp_(gradient, 1 - beta1)
        square = self.second[place].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = square.sqrt().div_(math.sqrt(1 - beta2**self.num_steps)).add_(ADAM_EPS)
        parameter.addcmul_(mean.div(scale), -lr / (1 - beta1**self.num_steps))
