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
            ``None``) and ``present`` bool [B, K] (``None``: all) to float32 [B, K, ``width``], and the same with more
            axes in front. Its parameters are those of linear layers and layer norms, or broadcast over such axes; it
            has no buffers, and its only random draws are dropout.
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
        self._device = device
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
        self._module.train(training and self._frozen is None)
        flat = self.theta[..., : sum(self._embedder.sizes)] if self._frozen is None else self._frozen[None]
        lead = flat.shape[:2]
        features = features.expand(*lead, *features.shape[-3:])
        if positions is not None:
            positions = positions.expand(*lead, *positions.shape[-3:])
        with _Functions(self._generators), torch.set_grad_enabled(self._frozen is None and torch.is_grad_enabled()):
            vectors: Tensor = functional_call(self._module, self._embedder.views(flat), (features, positions, present))
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


class _Functions(TorchFunctionMode):
    """Inside of it, layers with parameters [C, S, ...] take inputs [C, S, ..., B, N, W], a network at each place.

    Dropout masks are drawn for each seed from its own generator, as ``torch.nn.Dropout`` would on a CPU, and are the
    same for all candidates of a seed.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._generators = generators
        self._own: Mapping[Any, Callable[..., Any]] = {
            functional.linear: _linear,
            functional.layer_norm: _layer_norm,
            functional.dropout: self._dropout,
            functional.scaled_dot_product_attention: self._attention,
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own: Callable[..., Any] = self._own.get(func, func)
        return own(*args, **(kwargs or {}))

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return values
        masks = torch.empty(values.shape[1:], dtype=values.dtype, device=values.device)
        for mask, generator in zip(masks, self._generators, strict=True):
            mask.bernoulli_(1 - p, generator=generator)
        return values * masks.div_(1 - p)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        return self._dropout(scores.softmax(dim=-1), dropout_p) @ value


def _linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[C, S, ..., I] with weights [C, S, O, I] and biases [C, S, O], to [C, S, ..., O]."""
    rows = values.reshape(weight.shape[0] * weight.shape[1], -1, weight.shape[3])
    outputs = torch.baddbmm(bias.flatten(0, 1)[:, None], rows, weight.flatten(0, 1).transpose(1, 2))
    return outputs.view(*values.shape[:-1], weight.shape[2])


def _layer_norm(
    values: Tensor, normalized_shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """[C, S, B, N, W] with weights and biases [C, S, W]."""
    normed = functional.layer_norm(values, list(normalized_shape), eps=eps)
    return torch.addcmul(bias[:, :, None, None], normed, weight[:, :, None, None])
