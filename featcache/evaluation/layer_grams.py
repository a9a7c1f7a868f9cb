"""Gram matrices of every layer of a network over a minibatch of clips, exactly, in little memory.

The activations of a minibatch are far too many to keep: one layer of R(2+1)D has 1.9 GB for 64 clips of 16 frames of
112 pixels. A forward pass over a few clips, however, has those of each layer at one time, for exactly as long as the
next layer takes, which is when the products of these clips are added up. Passes over enough groups of clips meet every
pair: a clip is passed several times, and the more clips fit at once, the fewer times.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from featcache.errors import ConfigError
from featcache.evaluation.watched import Kind, LiveBytes, Watching
from featcache.machine import give_back_freed_memory
from featcache.seeding import rng_for
from featcache.units import readable_bytes

LayerKinds = Literal["all", "conv"]
"""``all``: convolutions, linear layers, normalisations and activations; ``conv``: the first two, which have weights."""
_KINDS: dict[str, tuple[Kind, ...]] = {
    "all": ("convolution", "linear", "normalisation", "activation"),
    "conv": ("convolution", "linear"),
}
_VALUES_AT_ONCE = 1 << 20
"""Number of activations that are converted to float64 at one time."""
_LARGE_BYTES = 1 << 24
"""Before products of outputs of so many bytes, freed memory is returned to the system, since it would add up."""
_COPIES = 6
"""Gram matrices of all layers, and the copies that centring takes."""
_SAME = 1e-2
"""Relative difference of a clip's activations alone and beside another clip that rounding may make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of a network.

    Attributes:
        name: Name of the module, or of the function after that of its module.
        kind: Kind of the function.
        dim: Dimension of the output that counts clips.
    """

    name: str
    kind: Kind
    dim: int


class WatchedNetwork:
    """A network in evaluation mode, whose layers are known.

    Attributes:
        layers: Its layers, in the order of the forward pass.
        clip_bytes: Bytes of memory that a clip takes during a pass.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], object],
        network: nn.Module,
        *,
        clip: tuple[int, ...],
        device: torch.device,
        kinds: LayerKinds,
        name: str,
    ) -> None:
        """Find the layers of a network by three passes over made-up clips.

        Args:
            encode: The forward pass, of clips uint8 [B, T, 3, S, S] on the device.
            network: The module whose parts are named.
            clip: Shape of a clip, (T, 3, S, S).
            device: Device of the network.
            kinds: Which layers count.
            name: Name of the network, for messages.

        Raises:
            ConfigError: It has no such layers, or mixes clips of a batch.
        """
        self._encode, self._network, self._device = encode, network, device
        self._kinds, self._name = _KINDS[kinds], name
        noise = rng_for(0, "cka").integers(0, 256, (1, *clip), dtype=np.uint8)
        one = torch.from_numpy(noise).to(device)
        two = torch.cat([torch.zeros_like(one), one])
        shapes = [self._shapes(clips) for clips in (one, two)]
        self.layers, self._places = self._found(*shapes)
        alone, beside = self._pass(one), self._pass(two)[:, 1, 1]
        mixed = (alone[:, 0, 0] - beside).abs() > _SAME * alone[:, 0, 0]
        if mixed.any():
            layer = self.layers[int(mixed.nonzero()[0])]
            raise ConfigError(
                f"layer {layer.name} of {name} says something else of a clip beside another one, so that clips cannot "
                "be told apart; CKA needs a network that treats the clips of a batch one by one"
            )
        with LiveBytes([*network.parameters(), *network.buffers(), one]) as live, torch.inference_mode():
            encode(one)
        self.clip_bytes, self._workspace = live.peak + one.nbytes, live.largest

    def passes(self, num_clips: int, *, memory: int) -> tuple[tuple[int, ...], ...]:
        """The groups of clips of each pass.

        Args:
            num_clips: Number of clips of a minibatch.
            memory: Bytes that may be taken, beside the network and the minibatch.

        Raises:
            ConfigError: Two clips take more.
        """
        grams = _COPIES * len(self.layers) * num_clips**2 * 8
        fixed = self._workspace + 2 * 8 * _VALUES_AT_ONCE + grams
        if memory < (least := fixed + 2 * self.clip_bytes):
            raise ConfigError(
                f"memory is {readable_bytes(memory)} and two clips of {self._name} take {readable_bytes(least)}; give "
                f"memory={least:_} or more, or shorter or smaller clips"
            )
        return groups_of_pairs(num_clips, (memory - fixed) // self.clip_bytes)

    def grams(self, clips: Tensor, groups: Sequence[Sequence[int]], *, on_pass: Callable[[int], None]) -> Tensor:
        """Gram matrices of all layers, float64 [L, n, n] on the network's device.

        Args:
            clips: uint8 [n, T, 3, S, S].
            groups: Clips of each pass, which together hold every pair; see :meth:`passes`.
            on_pass: Called after each pass with the number of its clips.
        """
        n = len(clips)
        found = torch.zeros(len(self.layers), n, n, dtype=torch.float64, device=self._device)
        for group in groups:
            places = torch.tensor(group, device=self._device)
            found[:, places[:, None], places] = self._pass(clips[list(group)].to(self._device))
            on_pass(len(group))
        return found

    def _pass(self, clips: Tensor) -> Tensor:
        """Gram matrices of the clips of one pass, float64 [L, k, k]."""
        grams: list[Tensor] = []
        calls = 0

        def add(name: str, kind: Kind, output: Tensor) -> None:
            nonlocal calls
            if output.nbytes >= _LARGE_BYTES and output.device.type == "cpu":
                give_back_freed_memory()
            if calls in self._places:
                grams.append(_gram(_rows(output, len(clips), dim=self.layers[len(grams)].dim)))
            calls += 1

        with torch.inference_mode(), Watching(self._network, add, num_clips=len(clips)):
            self._encode(clips)
        return torch.stack(grams)

    def _shapes(self, clips: Tensor) -> list[tuple[str, Kind, torch.Size]]:
        shapes: list[tuple[str, Kind, torch.Size]] = []
        with (
            torch.inference_mode(),
            Watching(self._network, lambda *seen: shapes.append((*seen[:2], seen[2].shape)), num_clips=len(clips)),
        ):
            self._encode(clips)
        return shapes

    def _found(
        self, one: Sequence[tuple[str, Kind, torch.Size]], two: Sequence[tuple[str, Kind, torch.Size]]
    ) -> tuple[tuple[Layer, ...], frozenset[int]]:
        """The layers of clips, whose outputs grow with their number, and their places among all calls."""
        layers, places = [], []
        for place, ((name, kind, alone), (_, _, both)) in enumerate(zip(one, two, strict=True)):
            grown = [dim for dim, (before, after) in enumerate(zip(alone, both, strict=True)) if after == 2 * before]
            if kind in self._kinds and grown:  # others say something of the network alone, e.g. of its positions
                layers.append(Layer(name=name, kind=kind, dim=grown[0]))
                places.append(place)
        if not layers:
            raise ConfigError(
                f"no layer of {self._name} is seen: it calls none of torch's convolutions, linear layers, "
                "normalisations and activations; CKA cannot be measured"
            )
        return tuple(layers), frozenset(places)


def _rows(output: Tensor, num_clips: int, *, dim: int) -> Tensor:
    """One row per clip, [B, p], without a copy where possible; the order of the columns is that of the memory."""
    parts = torch.unflatten(output.movedim(dim, 0), 0, (num_clips, -1))
    strides = parts.stride()
    order = sorted(range(1, parts.ndim), key=strides.__getitem__, reverse=True)
    return parts.permute(0, *order).flatten(1)


def _gram(rows: Tensor) -> Tensor:
    """Products of rows [k, p] in float64, [k, k]."""
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for piece in torch.split(rows, max(1, _VALUES_AT_ONCE // len(rows)), dim=1):
        wide = piece.double()
        products.addmm_(wide, wide.T)
    return products


@functools.cache
def groups_of_pairs(num_items: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Groups of at most ``size`` items so that every pair of items is in one of them at least; greedy.

    Args:
        num_items: Number of items, at least 2.
        size: Largest number of items of a group, at least 2.
    """
    left = ~np.eye(num_items, dtype=bool)
    groups = []
    while left.any():
        group = [int(left.sum(axis=1).argmax())]
        while len(group) < min(size, num_items):
            gain = left[group].sum(axis=0) * num_items + left.sum(axis=1)  # first what is new here, then what is rare
            gain[group] = -1
            group.append(int(gain.argmax()))
        left[np.ix_(group, group)] = False
        groups.append(tuple(sorted(group)))
    return tuple(groups)
