"""The protocol of backbones: frozen encoders, each with a card for its weights. Without torch.

How a package adds one is in ``docs/adding-a-backbone.md``; how they are found is in
:mod:`featcache.backbones.registry`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from featcache.recipes import Interpolation

if TYPE_CHECKING:
    from torch import Tensor, nn

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

    map: "Tensor | None"
    cls: "Tensor | None"


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
    def network(self) -> "nn.Module":
        """All that has weights; its state dict, written to a file, is a weights file of this backbone."""

    def encode(self, pixels: "Tensor", layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run once and return each of ``layers``.

        Pixels are float, normalised with the recipe's mean and std, on any device: they are moved to the backbone's.
        """

    def classify(self, pixels: "Tensor") -> "Tensor":
        """Class logits float [B, num_classes]; raises FeatcacheError where ``classes`` is None."""

    def to(self, device: str) -> "Backbone":
        """Move to a device; returns itself."""


Builder = Callable[[str, str], Backbone]
"""Takes a registry name and weights: ``default``, ``random`` or a file path."""
