"""Runs the backbones over decoded rows: one forward pass per backbone, one record per feature and row."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featcache.backbones import Backbone
from featcache.backbones.outputs import logit_records, to_records
from featcache.data.decoding.clips import CropSize
from featcache.data.transforms import enlarged, normalise
from featcache.machine import Matmul, set_matmul
from featcache.recipes import FeatureRecipe, RecordSpec

Pixels = Mapping[CropSize, npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundFeature:
    """A feature with everything needed to compute it.

    Attributes:
        name: Name of the array.
        recipe: Recipe of the feature.
        record: Shape and dtype of a row.
        backbone: The frozen encoder, on its device.
    """

    name: str
    recipe: FeatureRecipe
    record: RecordSpec
    backbone: Backbone

    @property
    def crop(self) -> CropSize:
        """Size and filter of the pixels that it needs."""
        return CropSize(size=self.recipe.input_size, interpolation=self.recipe.interpolation)


@contextmanager
def float32_products(matmul: Matmul) -> Iterator[None]:
    """Apply :func:`set_matmul` inside a ``with`` block and restore the former values afterwards."""
    former = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_matmul(matmul)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(former[0])
        torch.backends.cudnn.allow_tf32 = former[1]


def encode_rows(
    features: Sequence[BoundFeature], pixels: Pixels, *, encode_batch: int, device: str
) -> dict[str, npt.NDArray[np.float32]]:
    """Encode at most ``encode_batch`` rows; the batch is always padded to that size.

    Args:
        features: Features to compute; those of one backbone share one forward pass, but logits have their own.
        pixels: uint8 [n, T, 3, S, S] for each crop size that the features need.
        encode_batch: Number of rows per forward pass, from the plan.
        device: Device of the backbones.

    Returns:
        Each feature's records, float32 [n, *record.shape].
    """
    records: dict[str, npt.NDArray[np.float32]] = {}
    for members in _forwards(features):
        records.update(_encode_group(members, pixels[members[0].crop], encode_batch=encode_batch, device=device))
    return records


def one_a_forward(features: Sequence[BoundFeature]) -> list[BoundFeature]:
    """For each forward pass, the first of the features that share it."""
    return [members[0] for members in _forwards(features)]


def _forwards(features: Sequence[BoundFeature]) -> list[list[BoundFeature]]:
    """Group the features that share a forward pass: those of one backbone with the same preprocessing, logits apart."""
    groups: dict[tuple[object, ...], list[BoundFeature]] = {}
    for feature in features:
        recipe = feature.recipe
        is_logits = recipe.output == "logits"
        key = (id(feature.backbone), feature.crop, recipe.mean, recipe.std, recipe.compute, recipe.enlarge, is_logits)
        groups.setdefault(key, []).append(feature)
    return list(groups.values())


@torch.inference_mode()
def _encode_group(
    members: Sequence[BoundFeature], pixels: npt.NDArray[np.uint8], *, encode_batch: int, device: str
) -> dict[str, npt.NDArray[np.float32]]:
    """Run one forward pass of one backbone for all features that use it with the same preprocessing."""
    recipe, backbone = members[0].recipe, members[0].backbone
    num_rows, num_frames = pixels.shape[:2]
    assert num_rows <= encode_batch, f"{num_rows} rows in a batch of {encode_batch}"
    padded = torch.zeros((encode_batch, *pixels.shape[1:]), dtype=torch.uint8)
    padded[:num_rows] = torch.from_numpy(pixels)
    if backbone.kind == "image":
        padded = padded.flatten(0, 1)
    batch = enlarged(normalise(padded.to(device), mean=recipe.mean, std=recipe.std), recipe.enlarge)
    if batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)  # convolutions on CPU are twice as fast
    with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=recipe.compute == "bfloat16"):
        if recipe.output == "logits":
            logits = backbone.classify(batch)
            frames = num_frames if backbone.kind == "image" else 1
            records = {each.name: logit_records(logits, each.recipe, num_frames=frames) for each in members}
        else:
            outputs = backbone.encode(batch, sorted({each.recipe.layer for each in members}))
            records = {
                each.name: to_records(outputs[each.recipe.layer], each.recipe, num_frames=num_frames)
                for each in members
            }
    return {name: rows[:num_rows].float().cpu().numpy() for name, rows in records.items()}
