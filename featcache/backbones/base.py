"""Backbones: frozen encoders behind one protocol, found by a registry, each with a card for its weights.

To add a backbone, write one file in this folder with a builder decorated by :func:`register_backbone` (or
:func:`register_family` for names with a prefix, e.g. ``timm/<name>``). The conformance suite in
``featcache.testing`` picks it up by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from featcache.errors import unknown_name
from featcache.recipes import Interpolation

Statistics = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsCard:
    """Where weights come from and how their network was trained to see pixels.

    Attributes:
        source: A sentence: who published them, where.
        license: SPDX id or a short name.
        paper: E.g. ``arXiv:2103.00020``.
        file_name: The file looked for in the weights folder.
        sha256: Of that file where known, else empty.
        input_size: Side in pixels.
        crop_fraction: Side of the test crop over the shorter side.
        interpolation: Resize filter.
        mean: RGB means for pixels in [0, 1].
        std: RGB deviations for pixels in [0, 1].
        num_frames: Frames of a clip (1 for an image backbone).
        frame_stride: Distance of those frames.
    """

    source: str
    license: str
    paper: str = ""
    file_name: str = ""
    sha256: str = ""
    input_size: int = 224
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: Statistics = (0.485, 0.456, 0.406)
    std: Statistics = (0.229, 0.224, 0.225)
    num_frames: int = 1
    frame_stride: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOutput:
    """Output of one layer for a batch.

    Attributes:
        map: Dense positions, float [B, h, w, C] (image) or [B, t, h, w, C] (video); ``None`` where a layer of an image
            backbone has only a vector.
        cls: The class token or pooled vector, float [B, C]; ``None`` where the network has none at this layer.
    """

    map: Tensor | None
    cls: Tensor | None


class Backbone(Protocol):
    """A frozen encoder in evaluation mode.

    Its network requires no gradients, so that encoding makes no graph. Whoever trains it further turns gradients and
    training mode of :attr:`network` on.

    Attributes:
        kind: ``image``: takes [B, 3, S, S]. ``video``: takes [B, T, 3, S, S].
        card: Where the weights come from and the preprocessing they expect.
        layers: Layer names, first to last. The last is the default.
        weights_hash: ``sha256:…`` over the loaded tensors, or over the random ones.
        classes: Class names of :meth:`classify`, or ``None`` if there is no classifier.
    """

    kind: Literal["image", "video"]
    card: WeightsCard
    layers: tuple[str, ...]
    weights_hash: str
    classes: tuple[str, ...] | None

    @property
    def network(self) -> nn.Module:
        """All that has weights; its state dict, written to a file, is a weights file of this backbone."""

    def encode(self, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once and return each of ``layers``.

        Pixels are float, normalised with the recipe's mean and std, on any device: they are moved to the backbone's.
        """

    def classify(self, pixels: Tensor) -> Tensor:
        """Class logits float [B, num_classes]; raises FeatcacheError where ``classes`` is None."""

    def to(self, device: str) -> "Backbone":
        """Move to a device; returns itself."""


# A builder takes (name, weights); weights is "default", "random" or a file path.
Builder = Callable[[str, str], Backbone]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneEntry:
    """One registered backbone or family.

    Attributes:
        name: Registry name (``clip-l14``) or, for a family, its pattern (``timm/<name>``).
        summary: One line for ``featcache backbones``.
        build: Builds it.
        card: What is known before building; ``None`` for a family (its card depends on the name).
        example: For a family, a full name that the conformance suite builds; otherwise the name.
    """

    name: str
    summary: str
    build: Builder
    card: WeightsCard | None
    example: str


JOIN = "+"
"""What joins names into one, ``clip-l14+dinov2-l14``; see :mod:`featcache.backbones.concat`."""

_ENTRIES: dict[str, BackboneEntry] = {}
_FAMILIES: dict[str, BackboneEntry] = {}


def register_backbone(name: str, *, summary: str, card: WeightsCard) -> Callable[[Builder], Builder]:
    """Register a builder under one name."""

    def register(build: Builder) -> Builder:
        if name in _ENTRIES:
            raise ValueError(f"backbone {name!r} is registered already")
        _ENTRIES[name] = BackboneEntry(name=name, summary=summary, build=build, card=card, example=name)
        return build

    return register


def register_family(prefix: str, *, pattern: str, summary: str, example: str) -> Callable[[Builder], Builder]:
    """Register a builder for every name that starts with ``prefix``, which ends in ``/``, or has ``+`` inside."""

    def register(build: Builder) -> Builder:
        if prefix in _FAMILIES:
            raise ValueError(f"backbone family {prefix!r} is registered already")
        _FAMILIES[prefix] = BackboneEntry(name=pattern, summary=summary, build=build, card=None, example=example)
        return build

    return register


def backbone_entries() -> list[BackboneEntry]:
    """All registered backbones, then the families."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)] + [_FAMILIES[prefix] for prefix in sorted(_FAMILIES)]


def build_backbone(name: str, *, weights: str = "default") -> Backbone:
    """Build a frozen backbone.

    Args:
        name: A registered name or ``<family>/<name>``.
        weights: ``default`` (the card's), ``random`` (seeded by the name; never a fall-back) or the path of a file.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: The weights are not at hand or do not fit.
    """
    return find_entry(name).build(name, weights)


def find_entry(name: str) -> BackboneEntry:
    """The registered backbone or family that builds ``name``.

    Raises:
        UnknownNameError: No such backbone.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    if JOIN in name:
        return _FAMILIES[JOIN]
    for prefix, entry in _FAMILIES.items():
        if name.startswith(prefix):
            return entry
    known = [*_ENTRIES, *(entry.example for marker, entry in _FAMILIES.items() if marker != JOIN)]
    raise unknown_name("backbone", name, known, hint="Run `featcache backbones` for the list.")
