"""Many small networks as one: candidates times seeds of an embedder with a linear layer, in grouped matrix products.

What a step costs beside its arithmetic is paid once for all networks. Each takes the steps that it would take alone, up
to rounding: it has its own weights and optimiser state, and the batches, clips and dropout draws of its seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from featcache.evaluation.grid import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, initial_weight
from featcache.evaluation.settings import Candidate
from featcache.loaders.settings import Coordinates
from featcache.recipes import PositionForm
from featcache.seeding import seed_for
from featcache.training.generators import seeded_torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The part of a probe before its linear layer.

    Attributes:
        make: Builds the embedder of a seed, a module from features float32 [B, K, D], positions float32 [B, K, P] (or
            ``None``) and ``present`` bool [B, K] (``None``: all) to float32 [B, K, ``width``]. It has no buffers, and
            its only random draws are dropout.
        width: Number of channels of an embedded clip.
        form: Form of the positions that it uses; ``None``: none.
        coordinates: Kind of coordinates: the kind that its predictor was trained with.
        is_frozen: Whether the embedder is frozen, in eval mode, so that all candidates of a seed share its output.
    """

    make: Callable[[int], nn.Module]
    width: int
    form: PositionForm | None = None
    coordinates: Coordinates = "true"
    is_frozen: bool = False


class _Layout:
    """Names and shapes of parameters in one flat axis."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self.shapes = dict(shapes)
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """[..., P] as the parameters [..., *shape]."""
        parts = torch.split(flat, self.sizes, dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(*flat.shape[:-1], *shape) for (name, shape), part in named}


class Stack:
    """C candidates times S seeds of an embedder and a linear layer, after a BatchNorm for candidates that request one.

    Attributes:
        candidates: The candidates.
        seeds: The seeds.
        theta: float32 [C, S, P], the trained parameters; those of the embedder come first.
        loss: float32 [C, S], mean training loss of each network over the last epoch.
        statistics: Running mean and variance of the vectors of candidates with BatchNorm, float32 [c, S, 1, E]; c is
            1 if the embedder is frozen.
    """

    def __init__(
        self,
        embedding: Embedding,
        candidates: Sequence[Candidate],
        seeds: Sequence[int],
        *,
        num_outputs: int,
        device: torch.device,
    ) -> None:
        self.candidates, self.seeds = tuple(candidates), tuple(seeds)
        self._embedding, self._device = embedding, device
        modules = []
        for seed in seeds:
            with seeded_torch(seed, "probe-init", device=device):
                modules.append(embedding.make(seed).to(device).requires_grad_(requires_grad=False))
        self._module = modules[0]
        assert not list(self._module.buffers()), "an embedder with buffers cannot be stacked"
        own = {name: parameter.shape for name, parameter in self._module.named_parameters()}
        inputs = torch.stack([torch.cat([p.flatten() for p in module.parameters()]) for module in modules])  # [S, P]
        weight = torch.stack([initial_weight(embedding.width, num_outputs, seed=seed) for seed in seeds]).to(device)
        head = {"weight": weight.shape[1:], "bias": torch.Size([1, num_outputs])}
        self._embedder, self._head = _Layout(own), _Layout(head)
        last = torch.cat([weight.flatten(1), weight.new_zeros(len(seeds), num_outputs)], dim=1)
        trained = last if embedding.is_frozen else torch.cat([inputs, last], dim=1)
        self._frozen = inputs if embedding.is_frozen else None
        self.theta = trained.repeat(len(candidates), 1, 1).requires_grad_()
        self.loss = torch.zeros(len(candidates), len(seeds), device=device)
        self._blocks = [
            (places, norm)
            for norm in (False, True)
            if (places := [place for place, each in enumerate(candidates) if each.batch_norm == norm])
        ]
        normed = next((1 if embedding.is_frozen else len(places) for places, norm in self._blocks if norm), 0)
        zeros = weight.new_zeros(normed, len(seeds), 1, embedding.width)
        self.statistics = (zeros, torch.ones_like(zeros))
        self._generators = [torch.Generator(device).manual_seed(seed_for(seed, "probe-dropout")) for seed in seeds]

    def embed(self, features: Tensor, positions: Tensor | None, present: Tensor | None, *, training: bool) -> Tensor:
        """Embed clips.

        Args:
            features: float32 [S, B, K, D], a batch per seed, or [B, K, D], one for all seeds.
            positions: float32 [S, B, K, P] or [B, K, P], or ``None``.
            present: bool [S, B, K] or [B, K], or ``None`` for all.
            training: Whether dropout is active.

        Returns:
            float32 [C, S, B, K, E]; C is 1 if the embedder is frozen.
        """
        is_training = training and self._frozen is None
        self._module.train(is_training)
        draws = _Draws(self._generators)

        def run(parameters: dict[str, Tensor], features: Tensor, positions: Any, present: Any, place: Tensor) -> Tensor:
            with _Functions(draws, place):
                output: Tensor = functional_call(self._module, parameters, (features, positions, present))
            return output

        by_seed = 0 if features.ndim == 4 else None
        dims = (by_seed, None if positions is None else by_seed, None if present is None else by_seed)
        inputs = (features, positions, present, torch.arange(len(self.seeds), device=self._device))
        seeds = torch.vmap(run, in_dims=(0, *dims, 0), randomness="same")
        if self._frozen is not None:
            with torch.no_grad():
                return seeds(self._embedder.views(self._frozen), *inputs)[None]
        parameters = self._embedder.views(self.theta[..., : sum(self._embedder.sizes)])
        candidates = torch.vmap(seeds, in_dims=(0, None, None, None, None), randomness="same")
        vectors: Tensor = candidates(parameters, *inputs)
        return vectors

    def classify(self, vectors: Tensor, present: Tensor | None, *, training: bool) -> Tensor:
        """Outputs float32 [C, S, R, O] of the linear layers for vectors [C or 1, S, R, E].

        With ``training``, a BatchNorm uses the statistics of the rows that are ``present``, bool [S, R] or ``None`` for
        all, and follows them.
        """
        head = self._head.views(self.theta[..., -sum(self._head.sizes) :])
        parts = []
        for places, norm in self._blocks:
            is_all = len(places) == len(self.candidates)
            mine = vectors if is_all or len(vectors) == 1 else vectors[places]
            weight, bias = (each if is_all else each[places] for each in (head["weight"], head["bias"]))
            if norm:
                mine = self._normalised(mine, present, training=training)
            if len(mine) == 1 < len(places):  # one product for all candidates
                flat = mine[0] @ weight.permute(1, 2, 0, 3).flatten(2)
                parts.append(flat.view(*flat.shape[:2], len(places), -1).permute(2, 0, 1, 3) + bias)
            else:
                parts.append(mine @ weight + bias)
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([place for places, _ in self._blocks for place in places], device=self._device)
        return torch.cat(parts)[order.argsort()]

    def _normalised(self, vectors: Tensor, present: Tensor | None, *, training: bool) -> Tensor:
        mean, variance = self.statistics
        if not training:
            return (vectors - mean) * (variance + BATCH_NORM_EPS).rsqrt()
        if present is None:
            number: Tensor | int = vectors.shape[2]
            centre = vectors.mean(dim=2, keepdim=True)
            spread = (vectors - centre).square().mean(dim=2, keepdim=True)
        else:
            shares = present[None, :, :, None].to(vectors.dtype)
            number = shares.sum(dim=2, keepdim=True)
            centre = (vectors * shares).sum(dim=2, keepdim=True) / number
            spread = ((vectors - centre).square() * shares).sum(dim=2, keepdim=True) / number
        with torch.no_grad():
            unbiased = number / (number - 1)
            mean.lerp_(centre, BATCH_NORM_MOMENTUM)
            variance.lerp_(spread * unbiased, BATCH_NORM_MOMENTUM)
        return (vectors - centre) * (spread + BATCH_NORM_EPS).rsqrt()

    def state(self) -> dict[str, Tensor]:
        """The tensors from which the stack goes on, without the optimisers'."""
        mean, variance = self.statistics
        states = {f"dropout.{place}": each.get_state() for place, each in enumerate(self._generators)}
        return {"theta": self.theta.detach(), "loss": self.loss, "mean": mean, "variance": variance, **states}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the tensors of :meth:`state`."""
        self.theta.copy_(tensors["theta"])
        self.loss.copy_(tensors["loss"])
        for own, name in zip(self.statistics, ("mean", "variance"), strict=True):
            own.copy_(tensors[name])
        for place, generator in enumerate(self._generators):
            generator.set_state(tensors[f"dropout.{place}"])


class _Draws:
    """The dropout masks of each seed, drawn from its own generator as ``torch.nn.Dropout`` would on a CPU."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def mask(self, like: Tensor, rate: float, place: Tensor) -> Tensor:
        """Zeros at ``rate`` and 1 / (1 - rate) elsewhere, of the shape of ``like``, for the seed at ``place``."""
        drawn = [torch.empty(like.shape, dtype=like.dtype, device=like.device) for _ in self._generators]
        for mask, generator in zip(drawn, self._generators, strict=True):
            mask.bernoulli_(1 - rate, generator=generator)
        return torch.stack(drawn).div_(1 - rate).index_select(0, place.reshape(1))[0]


class _Functions(TorchFunctionMode):
    """Inside of it, dropout draws the masks of a seed, and attention is computed step by step, as ``vmap`` needs."""

    def __init__(self, draws: _Draws, place: Tensor) -> None:
        super().__init__()
        self._draws, self._place = draws, place

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return values * self._draws.mask(values, p, self._place) if training and p else values

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        return self._dropout(scores.softmax(dim=-1), dropout_p) @ value
