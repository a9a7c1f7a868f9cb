"""The protocol of backbones: frozen encoders, each with a card for its weights. Without torch.

``docs/adding-a-backbone.md`` says how a package adds a backbone, and :mod:`featcache.backbones.registry` how backbones
are found.
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
    """Origin of weights, and the preprocessing with which their network was trained.

    Attributes:
        source: Who published the weights, and where.
        license: SPDX id or a short name.
        paper: Paper, e.g. ``arXiv:2103.00020``.
        file_name: Name of the file that is looked for in the weights folder.
        sha256: SHA-256 of that file if known, otherwise empty.
        input_size: Side of the input in pixels.
        crop_fraction: Side of the test crop as a fraction of the shorter side.
        interpolation: Resize filter.
        mean: RGB means for pixels in [0, 1].
        std: RGB standard deviations for pixels in [0, 1].
        num_frames: Number of frames per clip (1 for an image backbone).
        frame_stride: Distance between these frames.
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
        map: Dense positions, float [B, h, w, C] (image) or [B, t, h, w, C] (video); ``None`` if a layer of an image
            backbone has only a vector.
        cls: The class token or pooled vector, float [B, C], not always of as many channels as the map; ``None`` if the
            network has none at this layer.
    """

    map: "Tensor | None"
    cls: "Tensor | None"


class Backbone(Protocol):
    """A frozen encoder in evaluation mode.

    Its network requires no gradients, so that encoding builds no graph. Code that trains it further turns on gradients
    and training mode of :attr:`network`.

    Attributes:
        kind: ``image``: takes [B, 3, S, S]. ``video``: takes [B, T, 3, S, S].
        card: Origin of the weights and the preprocessing that they expect.
        layers: Layer names, first to last. The last one is the default.
        weights_hash: ``sha256:…`` over the loaded, or random, tensors.
        classes: Class names of :meth:`classify`, or ``None`` if there is no classifier.
    """

    kind: Literal["image", "video"]
    card: WeightsCard
    layers: tuple[str, ...]
    weights_hash: str
    classes: tuple[str, ...] | None

    @property
    def network(self) -> "nn.Module":
        """The module with all weights; its state dict, written to a file, is a weights file of this backbone."""

    def encode(self, pixels: "Tensor", layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        """Run one forward pass and return the output of each of ``layers``.

        Pixels are float, normalised with the recipe's mean and std; they are moved from any device to the backbone's.
        """

    def classify(self, pixels: "Tensor") -> "Tensor":
        """Class logits float [B, num_classes]; raises FeatcacheError if ``classes`` is None."""

    def to(self, device: str) -> "Backbone":
        """Move the backbone to a device; returns itself."""


Builder = Callable[[str, str], Backbone]
"""Takes a registry name and weights: ``default``, ``random`` or a file path."""
