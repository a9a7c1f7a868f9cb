"""Joined image backbones: ``clip-l14+dinov2-l14`` concatenates features along the channels, in order.

AdViSe's Table 4 joins two image models without saying how. Here maps of a smaller grid are resized bilinearly
(``align_corners=False``) to the largest before they are concatenated, e.g. MAE's 14 x 14 to CLIP's 16 x 16; equal grids
are not resized. A frame bank that stores both features joins them when they are read, in the same way.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from featcache.backbones.base import Backbone, LayerOutput, Statistics, WeightsCard
from featcache.backbones.outputs import join_maps
from featcache.backbones.registry import JOIN, build_backbone
from featcache.errors import ConfigError, FeatcacheError, WeightsError

_EACH_OR_ALL = ("default", "random")


class ConcatBackbone:
    """Image backbones whose channels are concatenated; see :class:`featcache.backbones.base.Backbone`.

    The members' layers are paired from the last one backwards, as far as the shortest list goes: for ``clip-l14`` and
    ``dinov2-l14`` they are ``blocks.0+blocks.0`` to ``blocks.23+blocks.23`` and, by default, ``post+norm``.

    Pixels are normalised with the first member's mean and std (or the recipe's) and converted from the first card's
    statistics to each other member's. A recipe's mean and std therefore shift all members alike.

    Attributes:
        name: The members' names joined by ``+``.
        members: The backbones, in the order of their channels.
    """

    kind: Literal["image", "video"] = "image"
    classes: tuple[str, ...] | None = None

    def __init__(self, members: Sequence[Backbone], *, names: Sequence[str]) -> None:
        self.name = JOIN.join(names)
        self.members = tuple(members)
        self.card = _joint_card(names, [member.card for member in members])
        self.weights_hash = _joint_hash(names, [member.weights_hash for member in members])
        depth = min(len(member.layers) for member in members)
        combinations = list(zip(*(member.layers[-depth:] for member in members), strict=True))
        self.layers = tuple(JOIN.join(layers) for layers in combinations)
        self._parts = dict(zip(self.layers, combinations, strict=True))

    @property
    def network(self) -> nn.Module:
        """The networks of the members; there is no common weights file."""
        return nn.ModuleList(member.network for member in self.members)

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run one forward pass of each member.

        Args:
            pixels: float [B, 3, S, S], normalised with the first member's statistics.
            layers: Layer names.

        Returns:
            Maps [B, h, w, sum of channels] on the largest grid; class tokens [B, sum of channels] if all members have
            one at that layer.
        """
        encoded = []
        for index, member in enumerate(self.members):
            own = _restated(pixels, of=self.card, to=member.card)
            encoded.append(member.encode(own, list(dict.fromkeys(self._parts[layer][index] for layer in layers))))
        return {
            layer: _side_by_side([outputs[part] for outputs, part in zip(encoded, self._parts[layer], strict=True)])
            for layer in layers
        }

    def classify(self, pixels: Tensor) -> Tensor:
        """Not available: each member has a classifier of its own, or none.

        Raises:
            FeatcacheError: Always.
        """
        raise FeatcacheError(f"{self.name} has no classifier; classify with one of its members")

    def to(self, device: str) -> "ConcatBackbone":
        """Move the members to a device; returns itself."""
        for member in self.members:
            member.to(device)
        return self


def build(name: str, weights: str) -> ConcatBackbone:
    """Build the members of ``a+b`` (two or more) and check that they can be joined.

    Args:
        name: Registry names joined by ``+``.
        weights: ``default`` or ``random`` for all, or ``default``, ``random`` or a file for each, joined by ``+``.

    Raises:
        UnknownNameError: There is no such member.
        ConfigError: A member is a video backbone, or cannot take the first member's input size.
        WeightsError: Weights cannot be found, do not fit, or are not one entry per member.
    """
    names = name.split(JOIN)
    each = [weights] * len(names) if weights in _EACH_OR_ALL else weights.split(JOIN)
    if len(each) != len(names):
        raise WeightsError(
            f"weights {weights!r} of {name} are {len(each)} for {len(names)} backbones; "
            f"give default, random, or one for each joined by {JOIN}"
        )
    members: list[Backbone] = []
    for member, source in zip(names, each, strict=True):
        built = build_backbone(member, weights=source)
        if built.kind != "image":
            raise ConfigError(
                f"{member} in {name} is a video backbone; {JOIN} joins image backbones, so extract it apart"
            )
        if members:
            _check_size(built, member, first=members[0], first_name=names[0])
        members.append(built)
    return ConcatBackbone(members, names=names)


def _check_size(member: Backbone, name: str, *, first: Backbone, first_name: str) -> None:
    """Refuse a member that was made for another input size than the first and does not support that size."""
    size = first.card.input_size
    if member.card.input_size == size:
        return
    try:
        member.encode(torch.zeros((1, 3, size, size)), [member.layers[-1]])
    except (AssertionError, RuntimeError, ConfigError) as error:
        raise ConfigError(
            f"{name} takes {member.card.input_size} pixels a side and not the {size} of {first_name}; "
            f"join backbones of one input size, or put {name} first"
        ) from error


def _joint_card(names: Sequence[str], cards: Sequence[WeightsCard]) -> WeightsCard:
    """A card with the preprocessing of the first member and the sources, licences and papers of all."""
    first = cards[0]
    return WeightsCard(
        source="; ".join(f"{name}: {card.source}" for name, card in zip(names, cards, strict=True)),
        license=", ".join(dict.fromkeys(card.license for card in cards)),
        paper=", ".join(dict.fromkeys(card.paper for card in cards if card.paper)),
        file_name=JOIN.join(card.file_name for card in cards),
        input_size=first.input_size,
        crop_fraction=first.crop_fraction,
        interpolation=first.interpolation,
        mean=first.mean,
        std=first.std,
    )


def _joint_hash(names: Sequence[str], hashes: Sequence[str]) -> str:
    digest = hashlib.sha256("".join(f"{name}\0{value}\0" for name, value in zip(names, hashes, strict=True)).encode())
    return f"sha256:{digest.hexdigest()}"


def _restated(pixels: Tensor, *, of: WeightsCard, to: WeightsCard) -> Tensor:
    """Convert pixels [B, 3, S, S] from one card's mean and std to another's; the same tensor if they agree."""
    if (of.mean, of.std) == (to.mean, to.std):
        return pixels
    old_mean, old_std = _columns(of.mean, pixels), _columns(of.std, pixels)
    new_mean, new_std = _columns(to.mean, pixels), _columns(to.std, pixels)
    return pixels * (old_std / new_std) + (old_mean - new_mean) / new_std


def _columns(values: Statistics, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def _side_by_side(outputs: Sequence[LayerOutput]) -> LayerOutput:
    """Concatenate maps, resized to the largest grid, and class tokens along the channels, if all members have them."""
    maps = [output.map for output in outputs if output.map is not None]
    tokens = [output.cls for output in outputs if output.cls is not None]
    return LayerOutput(
        map=join_maps(maps) if len(maps) == len(outputs) else None,
        cls=torch.cat(tokens, dim=-1) if len(tokens) == len(outputs) else None,
    )
