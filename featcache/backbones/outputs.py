"""From a layer's output to stored records: the form of a row, and pooling that is the same when writing and reading.

The pooling order is channels, then space, then frames. For fp16 storage each step takes fp16 values, averages them
exactly (the sum of fp16 values is exact in float64), and rounds the average to fp32 and then fp16. Pooling before
storing and pooling stored values therefore agree to the bit, on any device and at any batch size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard
from featcache.errors import ConfigError, unknown_name
from featcache.networks.counting import counting_macs
from featcache.recipes import FeatureRecipe, Interpolation, Layout, Output, Precision, RecordSpec

CLASSIFIER = "classifier"
"""In the place of a layer, where the output is the logits of a backbone's own classifier."""
Compute = Literal["float32", "bfloat16"]
Array = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Probed:
    """Findings of one forward pass: shapes of every layer's map and class token without batch axis, and the work."""

    shapes: Mapping[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]
    macs: int


# By (input size, frames): one forward pass each.
_PROBED: WeakKeyDictionary[Backbone, dict[tuple[int, int], _Probed]] = WeakKeyDictionary()


def resolve_recipe(
    backbone: Backbone,
    name: str,
    *,
    layer: str | None = None,
    output: Output | None = None,
    average_frames: bool = False,
    grid: int | None = None,
    channels: int | None = None,
    input_size: int | None = None,
    interpolation: Interpolation | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    precision: Precision = "float16",
    compute: Compute = "float32",
    enlarge: int | None = None,
    card: WeightsCard | None = None,
) -> FeatureRecipe:
    """Fill in open choices from the backbone's card.

    Args:
        backbone: The built backbone.
        name: Its registry name.
        layer: Layer name; ``None`` or ``last`` is the last one, and for logits the classifier.
        output: ``cls``, ``mean``, ``tokens``, ``map`` or ``logits``; ``None`` is ``mean``, or ``map`` if a grid is
            given.
        average_frames: Average a clip's frames into one record.
        grid: Side of the pooled map.
        channels: Number of channels after pooling neighbours.
        input_size: Input side in pixels; ``None`` is the card's, as for ``interpolation``, ``mean`` and ``std``.
        interpolation: Resize filter.
        mean: RGB means.
        std: RGB standard deviations.
        precision: Storage dtype.
        compute: Dtype of the forward pass.
        enlarge: Factor by which pixels are enlarged for the backbone.
        card: The preprocessing that fills in open choices; ``None`` is the backbone's card.

    Raises:
        UnknownNameError: The backbone has no such layer.
        ConfigError: The choices contradict each other, or logits are asked for and there is no classifier.
    """
    if output == "logits":
        layer = _classifier_of(backbone, name, layer)
    elif layer is None or layer == "last":
        layer = backbone.layers[-1]
    if layer != CLASSIFIER and layer not in backbone.layers:
        raise unknown_name(f"layer of {name}", layer, backbone.layers)
    card = card or backbone.card
    return FeatureRecipe(
        backbone=name,
        weights_hash=backbone.weights_hash,
        layer=layer,
        output=output or ("mean" if grid is None else "map"),
        average_frames=average_frames,
        grid=grid,
        channels=channels,
        input_size=(card.input_size // (enlarge or 1)) if input_size is None else input_size,
        interpolation=interpolation or card.interpolation,
        mean=mean or card.mean,
        std=std or card.std,
        precision=precision,
        compute=compute,
        enlarge=enlarge,
        classes=backbone.classes if output == "logits" else None,
    )


def _classifier_of(backbone: Backbone, name: str, layer: str | None) -> str:
    """What stands for the layer of logits.

    Raises:
        ConfigError: The backbone has no classifier, or another layer is asked for.
    """
    if backbone.classes is None:
        raise ConfigError(
            f"{name} has no classifier, and output 'logits' is what one says; fine-tune it with `featcache train "
            "finetune` and give the folder of that run as the backbone"
        )
    if layer not in (None, "last", CLASSIFIER):
        raise ConfigError(f"output 'logits' of {name} is of its whole network, not of {layer!r}; remove the layer")
    return CLASSIFIER


def record_spec(backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int, layout: Layout) -> RecordSpec:
    """Shape, axes and dtype of one row, found by running the backbone once on a blank input.

    Args:
        backbone: The built backbone, on any device.
        recipe: Recipe of the feature.
        num_frames: Number of frames per row.
        layout: ``clips`` or ``frames`` (a row is one frame).

    Raises:
        ConfigError: The layer cannot give the recipe's output.
        UnknownNameError: The backbone has no such layer.
    """
    frames = 1 if layout == "frames" else num_frames
    is_video = backbone.kind == "video"
    if is_video and layout == "frames":
        raise ConfigError(
            f"{recipe.backbone} encodes clips and cannot fill a frame bank; use layout clips, or an image backbone"
        )
    if is_video and recipe.average_frames:
        raise ConfigError(f"average_frames is for image backbones; remove it for {recipe.backbone}")
    if recipe.output != "logits" and recipe.layer not in backbone.layers:
        raise unknown_name(f"layer of {recipe.backbone}", recipe.layer, backbone.layers)
    shapes = _probe(backbone, recipe, num_frames=frames if is_video else 1).shapes
    if recipe.output == "logits":
        logits = torch.empty(1 if is_video else frames, len(recipe.classes or ()), device="meta")
        record = logit_records(logits, recipe, num_frames=1 if is_video else frames)
    else:
        dense, cls = (
            None if shape is None else torch.empty(1 if is_video else frames, *shape, device="meta")
            for shape in shapes[recipe.layer]
        )
        record = to_records(LayerOutput(map=dense, cls=cls), recipe, num_frames=frames)
    time = ("t",) if frames > 1 and not is_video and not recipe.average_frames else ()
    map_axes = ("t", "h", "w", "c") if is_video else ("h", "w", "c")
    axes = time + {"tokens": ("n", "c"), "map": map_axes}.get(recipe.output, ("c",))
    return RecordSpec(shape=tuple(record.shape[1:]), axes=axes, dtype=recipe.precision)


def has_class_token(backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int) -> bool:
    """Whether the recipe's layer gives a class token or another vector beside its map.

    Args:
        backbone: The built backbone, on any device.
        recipe: Recipe with layer and input size.
        num_frames: Number of frames per row.

    Raises:
        ConfigError: The backbone cannot take such input.
    """
    frames = num_frames if backbone.kind == "video" else 1
    return _probe(backbone, recipe, num_frames=frames).shapes[recipe.layer][1] is not None


def macs_per_row(backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int) -> int:
    """Multiply-accumulates of the backbone for one row of ``num_frames`` frames, all its layers included.

    They follow from the network's shapes alone, so they are the same on every machine.

    Args:
        backbone: The built backbone, on any device.
        recipe: Recipe with the input size.
        num_frames: Frames per row; 1 in a frame bank.

    Raises:
        ConfigError: The backbone cannot take such input.
    """
    if backbone.kind == "video":
        return _probe(backbone, recipe, num_frames=num_frames).macs
    return num_frames * _probe(backbone, recipe, num_frames=1).macs


def to_records(output: LayerOutput, recipe: FeatureRecipe, *, num_frames: int) -> Tensor:
    """Turn one layer's output into the rows to store.

    Args:
        output: Output of ``recipe.layer``. For an image backbone (a map of four axes, or only a vector) the batch is
            rows x ``num_frames``, frame after frame; for a video backbone (a map of five axes) it is rows.
        recipe: Recipe with output, pooling and precision.
        num_frames: Number of frames per row.

    Returns:
        float32 [B, *record]: ``cls`` and ``mean`` [C]; ``tokens`` [N, C], class token first if there is one of C
        channels; ``map`` [h, w, C] or [t, h, w, C]. Rows of an image backbone with several frames begin with [t],
        unless averaged. For fp16 precision the values are fp16 values, infinite if they overflow.

    Raises:
        ConfigError: The layer has no class token or no map, or cannot be pooled to the requested size.
    """
    is_video = output.map is not None and output.map.ndim == 5
    values = _select(output, recipe)
    values = values.to(torch.float16 if recipe.precision == "float16" else torch.float32)
    if recipe.channels is not None:
        values = pool_channels(values, recipe.channels)
    if recipe.grid is not None:
        values = pool_space(values, recipe.grid)
    if recipe.output == "mean":
        values = pool_mean(values)
    if not is_video and num_frames > 1:
        values = torch.unflatten(values, 0, (-1, num_frames))
        if recipe.average_frames:
            values = _average(values, dims=(1,))
    return values.to(torch.float32).contiguous()


def logit_records(logits: Tensor, recipe: FeatureRecipe, *, num_frames: int) -> Tensor:
    """Turn the logits of a backbone's classifier into the rows to store.

    Args:
        logits: [B, classes] of a video backbone, or [B * ``num_frames``, classes] of an image backbone.
        recipe: Recipe with output ``logits``.
        num_frames: Frames per row of an image backbone; 1 for a video backbone.

    Returns:
        float32 [B, classes], or [B, ``num_frames``, classes] unless averaged.
    """
    return to_records(LayerOutput(map=None, cls=logits), recipe, num_frames=num_frames)


def _select(output: LayerOutput, recipe: FeatureRecipe) -> Tensor:
    """The tensor from which a recipe's output is computed: [B, C], [B, N, C] or the map."""
    where = f"layer {recipe.layer!r} of {recipe.backbone}"
    if recipe.output in ("cls", "logits"):
        if output.cls is None:
            raise ConfigError(f"{where} has no class token; use output 'mean', or another layer")
        return output.cls
    if output.map is None:
        raise ConfigError(f"{where} has a single vector and no map; use output 'cls', or another layer")
    if recipe.output != "tokens":
        return output.map
    patches = output.map.flatten(1, -2)
    if output.cls is None or output.cls.shape[-1] != patches.shape[-1]:
        return patches
    return torch.cat([output.cls.unsqueeze(1), patches], dim=1)


@overload
def pool_channels(x: Tensor, num: int) -> Tensor: ...
@overload
def pool_channels(x: Array, num: int) -> Array: ...
def pool_channels(x: Tensor | Array, num: int) -> Tensor | Array:
    """Average neighbouring channels: [..., C] to [..., num], in groups of C / num (AdViSe's channel compression).

    Args:
        x: float16 or float32, a tensor or an array; the result is of the same kind and dtype.
        num: Number of channels of the result; a divisor of C.

    Raises:
        ConfigError: ``num`` does not divide C.
    """
    if not isinstance(x, Tensor):
        return pool_channels(torch.from_numpy(x), num).numpy()
    if x.shape[-1] % num:
        divisors = [size for size in range(1, x.shape[-1] + 1) if x.shape[-1] % size == 0]
        near = min(divisors, key=lambda size: abs(size - num))
        raise ConfigError(f"channels {num} does not divide the {x.shape[-1]} there are; use {near}")
    return x if num == x.shape[-1] else _average(torch.unflatten(x, -1, (num, -1)), dims=(-1,))


@overload
def pool_space(x: Tensor, size: int) -> Tensor: ...
@overload
def pool_space(x: Array, size: int) -> Array: ...
def pool_space(x: Tensor | Array, size: int) -> Tensor | Array:
    """Adaptively average a map in space: [..., h, w, C] to [..., size, size, C] (AdViSe's spatial compression).

    Cell (i, j) is the average over rows floor(i h / size) to ceil((i + 1) h / size), and over columns in the same way,
    as in ``torch.nn.AdaptiveAvgPool2d``.

    Args:
        x: float16 or float32, a tensor or an array; the result is of the same kind and dtype.
        size: Side of the result, at most h and w.

    Raises:
        ConfigError: ``size`` is larger than the map.
    """
    if not isinstance(x, Tensor):
        return pool_space(torch.from_numpy(x), size).numpy()
    height, width = x.shape[-3:-1]
    if size > min(height, width):
        raise ConfigError(f"grid {size} is larger than the map of {height} x {width}; use at most {min(height, width)}")
    if size == height == width:
        return x
    if height % size == 0 and width % size == 0:
        blocks = x.reshape(*x.shape[:-3], size, height // size, size, width // size, x.shape[-1])
        return _average(blocks, dims=(-4, -2))
    rows = [
        torch.stack(
            [_average(x[..., top:bottom, left:right, :], dims=(-3, -2)) for left, right in _windows(width, size)],
            dim=-2,
        )
        for top, bottom in _windows(height, size)
    ]
    return torch.stack(rows, dim=-3)


@overload
def pool_mean(x: Tensor) -> Tensor: ...
@overload
def pool_mean(x: Array) -> Array: ...
def pool_mean(x: Tensor | Array) -> Tensor | Array:
    """Average over all positions: [B, h, w, C] or [B, t, h, w, C] to [B, C], of the same kind and dtype."""
    if not isinstance(x, Tensor):
        return pool_mean(torch.from_numpy(x)).numpy()
    return _average(x, dims=tuple(range(1, x.ndim - 1)))


def join_maps(maps: Sequence[Tensor]) -> Tensor:
    """Maps [..., h, w, C] of several features side by side, [..., H, W, sum of C].

    Maps of a smaller grid are resized to the largest height and width, bilinearly (``align_corners=False``; float16 as
    float32), e.g. MAE's 14 x 14 to CLIP's 16 x 16; others are not changed. A single map is returned as it is.
    """
    height, width = max(each.shape[-3] for each in maps), max(each.shape[-2] for each in maps)
    return maps[0] if len(maps) == 1 else torch.cat([_resized(each, height, width) for each in maps], dim=-1)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-3:-1] == (height, width):
        return x
    flat = x.flatten(0, -4).permute(0, 3, 1, 2)
    wide = flat.float() if x.dtype == torch.float16 else flat
    resized = functional.interpolate(wide, (height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(*x.shape[:-3], height, width, x.shape[-1])


def _windows(length: int, size: int) -> list[tuple[int, int]]:
    return [(index * length // size, math.ceil((index + 1) * length / size)) for index in range(size)]


def _average(x: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Average over ``dims`` in the dtype of ``x``, with exact sums for fp16."""
    if x.dtype != torch.float16:
        return x.mean(dim=dims)
    # Sums of up to 2**12 fp16 values fit into float64's 53 bits whatever their exponents, so the order does not matter.
    return x.to(torch.float64).mean(dim=dims).to(torch.float32).to(torch.float16)


def _probe(backbone: Backbone, recipe: FeatureRecipe, *, num_frames: int) -> _Probed:
    """Run a backbone on one blank input to find shapes and work."""
    size = recipe.backbone_size
    known = _PROBED.setdefault(backbone, {})
    key = (size, num_frames)
    if key not in known:
        blank = torch.zeros((1, num_frames, 3, size, size) if backbone.kind == "video" else (1, 3, size, size))
        try:
            with counting_macs() as macs:  # not inference mode: the network may be trained later
                outputs = backbone.encode(blank, backbone.layers)
        except (AssertionError, RuntimeError) as error:
            if size == backbone.card.input_size:
                raise
            raise ConfigError(
                f"{recipe.backbone} cannot encode {size} pixels a side ({str(error).splitlines()[0].rstrip('.')}); "
                f"set input_size to {backbone.card.input_size}"
            ) from error
        shapes = {
            layer: (
                None if output.map is None else tuple(output.map.shape[1:]),
                None if output.cls is None else tuple(output.cls.shape[1:]),
            )
            for layer, output in outputs.items()
        }
        known[key] = _Probed(shapes, macs.total)
    return known[key]
