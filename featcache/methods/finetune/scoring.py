"""Scores of test videos: logits of each view, averaged over the views of a video."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.errors import VideoError
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.videos import VideoFiles
from featcache.methods.finetune.module import VideoClassifier
from featcache.stages import OnStage, ignore
from featcache.training.settings import Precision
from featcache.training.world import ALONE, World

Scores = npt.NDArray[np.float64]


def video_scores(
    module: VideoClassifier,
    source: RecipeSource,
    files: VideoFiles,
    *,
    workers: int,
    clips_at_once: int,
    average: Literal["softmax", "logits"],
    precision: Precision = "float32",
    world: World = ALONE,
    on_stage: OnStage = ignore,
) -> tuple[list[int], Scores]:
    """Score all videos that can be decoded; a bounded amount of memory is decoded ahead. Collective.

    Args:
        module: The classifier; it is left in evaluation mode.
        source: The views of each video.
        files: The videos.
        workers: Number of decoding processes; 0: this process.
        clips_at_once: Number of clips per forward pass.
        average: ``softmax``: average class probabilities; ``logits``: average logits.
        precision: Dtype of the forward pass.
        world: The processes that share the videos; each scores every ``size``-th.
        on_stage: Called in the first process with the stage ``test``, videos done and in total, of its own.

    Returns:
        Numbers of the M videos that were scored, which are all but damaged ones, and their scores, float64
        [M, num_classes]; in every process.

    Raises:
        VideoError: A video is missing or has changed since it was scanned, or none can be decoded.
    """
    module.eval()
    mine = world.mine(len(files.videos))
    place_of = {number: place for place, number in enumerate(mine)}
    rows = torch.zeros(len(mine), 1 + module.head.out_features, dtype=torch.float64)  # 1 if it decoded, then its scores
    batches = source.batches(mine, at_least=workers)
    with ViewLoader(source, files, workers=workers) as loader, torch.no_grad():
        for number, batch in enumerate(batches):
            decoded = loader.decodable(batch, following=batches[number + 1 :])
            places = [place_of[video] for video in decoded.videos]
            for views in decoded.arrays:  # one, or none if all are damaged
                rows[places, 0] = 1.0
                rows[places, 1:] = _scored(
                    module, views, clips_at_once=clips_at_once, average=average, precision=precision
                )
            if world.is_first:
                on_stage("test", place_of[batch.videos[-1]] + 1, len(mine))
    found = world.collect(rows, len(files.videos))
    scored = found[:, 0].nonzero().flatten().tolist()
    if not scored:
        raise VideoError(
            "undecodable", f"none of {len(files.videos)} test videos can be decoded; `featcache scan --decode` says why"
        )
    return scored, found[scored, 1:].numpy()


def _scored(
    module: VideoClassifier,
    views: Tensor,
    *,
    clips_at_once: int,
    average: Literal["softmax", "logits"],
    precision: Precision,
) -> Tensor:
    """Scores of videos, float64 [B, num_classes], from their views, uint8 [B, V, T, 3, S, S]."""
    device = next(module.parameters()).device
    parts = []
    for clips in torch.split(views.flatten(0, 1), clips_at_once):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            parts.append(module(clips.to(device, non_blocking=True)).double())
    logits = torch.cat(parts)
    values = logits.softmax(dim=1) if average == "softmax" else logits
    return torch.unflatten(values, 0, views.shape[:2]).mean(dim=1).cpu()
