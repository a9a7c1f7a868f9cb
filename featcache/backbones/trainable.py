"""A backbone as a trainable module: from clips to the vectors that ``extract`` stores as float32, with gradients."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Self

import torch
from torch import Tensor, nn

from featcache.backbones.base import Backbone, LayerOutput
from featcache.backbones.outputs import has_class_token, macs_per_row, record_spec, resolve_recipe, to_records
from featcache.backbones.registry import build_backbone, check_name
from featcache.backbones.weights import given_file, without_downloads
from featcache.data.transforms import normalise
from featcache.errors import ConfigError, WeightsError
from featcache.recipes import FeatureRecipe

IMAGE_FRAMES = 8
"""Default number of frames per clip for an image backbone, as in ``extract``."""


class ClipEncoder(nn.Module):
    """The network of a backbone, from clips to one vector each.

    Attributes:
        network: The backbone's network.
        recipe: Recipe of the feature.
        num_frames: Number of frames per clip.
        width: Number of channels of the vector.
    """

    def __init__(self, backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int, is_frozen: bool = False) -> None:
        """Wrap a backbone.

        Args:
            backbone: The built, frozen backbone.
            recipe: Recipe of a single vector per clip, in float32.
            num_frames: Number of frames per clip.
            is_frozen: Keep the backbone frozen, in evaluation mode.

        Raises:
            ConfigError: The backbone cannot take such clips.
        """
        super().__init__()
        record = record_spec(backbone, recipe, num_frames=num_frames, layout="clips")
        assert len(record.shape) == 1, f"{recipe.output} of {recipe.backbone} is no vector: {record}"
        self.network = backbone.network.requires_grad_(not is_frozen)
        self.recipe = recipe
        self.num_frames = num_frames
        self.width = record.shape[0]
        self._backbone = backbone
        self._is_frozen = is_frozen
        self._passed: Counter[int] | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one clip."""
        return self.macs_of({self.num_frames: 1})

    def macs_of(self, num_clips: Mapping[int, int]) -> int:
        """Multiply-accumulates of some clips, whose numbers are given by their numbers of frames."""
        return sum(
            count * macs_per_row(self._backbone, self.recipe, num_frames=num_frames)
            for num_frames, count in num_clips.items()
        )

    @contextmanager
    def counting_clips(self) -> Iterator[Mapping[int, int]]:
        """Count the clips that pass the network within a ``with`` block, by their number of frames."""
        self._passed = Counter()
        try:
            yield self._passed
        finally:
            self._passed = None

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but never for a frozen backbone."""
        super().train(mode)
        if self._is_frozen:
            self.network.eval()
        return self

    def placed(self, device: torch.device | str) -> Self:
        """Move the module to a device, where its backbone then expects clips."""
        self._backbone.to(str(device))
        return self.to(device)

    def features(self, clips: Tensor) -> Tensor:
        """Vectors float32 [B, C] of clips uint8 [B, T, 3, S, S] on the module's device.

        Raises:
            ConfigError: The backbone is to be trained, and its ``encode`` lets no gradient through.
        """
        return self._with_gradient(to_records(self._encoded(clips), self.recipe, num_frames=clips.shape[1]))

    def maps(self, clips: Tensor) -> Tensor:
        """Maps float [B, C, t, h, w] of clips uint8 [B, T, 3, S, S], of the same layer as the vectors.

        Raises:
            ConfigError: The layer has no map, or the backbone is to be trained, and its ``encode`` lets no gradient
                through.
        """
        found = self._encoded(clips).map
        if found is None:
            raise ConfigError(f"{self.recipe.layer} of {self.recipe.backbone} has no map; name another layer")
        if found.ndim == 4:
            found = torch.unflatten(found, 0, (-1, clips.shape[1]))
        return self._with_gradient(found.permute(0, 4, 1, 2, 3))

    def map_channels(self) -> int:
        """Number of channels of :meth:`maps`.

        Raises:
            ConfigError: The layer has no map.
        """
        recipe = dataclasses.replace(self.recipe, output="map")
        return record_spec(self._backbone, recipe, num_frames=self.num_frames, layout="clips").shape[-1]

    def _encoded(self, clips: Tensor) -> LayerOutput:
        if self._passed is not None:
            self._passed[clips.shape[1]] += len(clips)
        recipe = self.recipe
        pixels = normalise(clips, mean=recipe.mean, std=recipe.std)
        if self._backbone.kind == "image":
            pixels = pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self._backbone.encode(pixels, [recipe.layer])[recipe.layer]

    def _with_gradient(self, values: Tensor) -> Tensor:
        """The values as they are, or copies on which a head can be trained; refuses to train without a gradient."""
        if self.training and torch.is_grad_enabled() and not (self._is_frozen or values.requires_grad):
            raise ConfigError(
                f"no gradient reaches the network of {self.recipe.backbone!r}, since its encode runs under "
                "torch.inference_mode or torch.no_grad, or detaches what it returns: only the head would be trained; "
                "take that off encode, or train the head alone with --linear"
            )
        return values.clone() if values.is_inference() else values


def has_unused(encoder: ClipEncoder, *, reads_map: bool = False) -> bool:
    """Whether the vectors of an encoder, or its maps, leave out some trained parameters of its network, e.g. a head.

    One clip of zeros is encoded in evaluation mode on the encoder's device; nothing is changed.
    """
    trained = [parameter for parameter in encoder.network.parameters() if parameter.requires_grad]
    size, device = encoder.recipe.input_size, next(encoder.parameters()).device
    was_training = encoder.training
    clips = torch.zeros(1, encoder.num_frames, 3, size, size, dtype=torch.uint8, device=device)
    encoder.eval()
    read = encoder.maps(clips) if reads_map else encoder.features(clips)
    encoder.train(was_training)
    if not trained or not read.requires_grad:
        return False
    return any(each is None for each in torch.autograd.grad(read.sum(), trained, allow_unused=True))


def check_names(backbone: str, weights: str) -> None:
    """Check the names of a backbone and a weights file, before videos are listed, which takes long.

    Raises:
        UnknownNameError: There is no such backbone.
        WeightsError: There is no such file.
    """
    check_name(backbone)
    if weights not in ("default", "random"):
        given_file(weights, backbone=backbone)


def weights_at_hand(backbone: str, weights: str) -> tuple[str, list[str]]:
    """The weights of a backbone if they are on this machine and fit; else ``random``, and a sentence of what is wrong.

    Nothing is downloaded.

    Raises:
        UnknownNameError: There is no such backbone.
        ConfigError: Its library is not installed.
    """
    try:
        with without_downloads():
            build_backbone(backbone, weights=weights)
    except WeightsError as error:
        return "random", [str(error)]
    return weights, []


def clip_length(backbone: Backbone, num_frames: int | None) -> int:
    """Number of frames per clip: the requested number, or the backbone's."""
    return num_frames or (IMAGE_FRAMES if backbone.kind == "image" else backbone.card.num_frames)


def clip_feature(
    backbone: Backbone,
    name: str,
    *,
    num_frames: int,
    layer: str = "last",
    output: Literal["cls", "mean"] | None = None,
    input_size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> FeatureRecipe:
    """One vector per clip, as a recipe of extraction.

    Args:
        backbone: The built backbone.
        name: Its registry name.
        num_frames: Number of frames per clip.
        layer: Name of the layer; ``last`` is the backbone's default.
        output: The class token, or the mean over the map; ``None``: the class token if there is one.
        input_size: Input side in pixels; ``None``: the backbone's.
        mean: RGB means; ``None``: the backbone's.
        std: RGB standard deviations; ``None``: the backbone's.

    Raises:
        UnknownNameError: There is no such layer.
        ConfigError: The backbone cannot take such clips.
    """
    recipe = resolve_recipe(
        backbone,
        name,
        layer=layer,
        output=output,
        average_frames=backbone.kind == "image",
        input_size=input_size,
        mean=mean,
        std=std,
        precision="float32",
    )
    if output is None and has_class_token(backbone, recipe, num_frames=num_frames):
        return dataclasses.replace(recipe, output="cls")
    return recipe
