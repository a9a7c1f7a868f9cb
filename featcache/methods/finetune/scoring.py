"""Scores of test videos: logits of each view, averaged over the views of a video."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from featcache.loaders.ahead import ViewLoader
from featcache.loaders.recipe_rows import RecipeSource
from featcache.methods.finetune.module import VideoClassifier
from featcache.stages import OnStage, ignore
from featcache.training.settings import Precision
from featcache.training.world import ALONE, World

Scores = npt.NDArray[np.float64]


def video_scores(
    module: VideoClassifier,
    source: RecipeSource,
    *,
    workers: int,
    clips_at_once: int,
    average: Literal["softmax", "logits"],
    precision: Precision = "float32",
    world: World = ALONE,
    on_stage: OnStage = ignore,
) -> Scores:
    """Score all videos of a source; a bounded amount of memory is decoded ahead. Collective.

    Args:
        module: The classifier; it is left in evaluation mode.
        source: The views of each video.
        workers: Number of decoding processes; 0: this process.
        clips_at_once: Number of clips per forward pass.
        average: ``softmax``: average class probabilities; ``logits``: average logits.
        precision: Dtype of the forward pass.
        world: The processes that share the videos; each scores every ``size``-th.
        on_stage: Called in the first process with the stage ``test``, videos done and in total, of its own.

    Returns:
        float64 [M, num_classes], in every process.

    Raises:
        VideoError: A video cannot be used any more.
    """
    device = next(module.parameters()).device
    module.eval()
    num_videos = len(source.files.videos)
    mine = world.mine(num_videos)
    scores = [torch.empty(0, module.head.out_features, dtype=torch.float64)]
    batches = source.batches(mine, at_least=workers)
    with ViewLoader(source, workers=workers) as loader, torch.no_grad():
        for number, batch in enumerate(batches):
            (views,) = loader.views(batch, following=batches[number + 1 :])
            parts = []
            for clips in torch.split(views.flatten(0, 1), clips_at_once):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    parts.append(module(clips.to(device, non_blocking=True)).double())
            logits = torch.cat(parts)
            values = logits.softmax(dim=1) if average == "softmax" else logits
            scores.append(torch.unflatten(values, 0, views.shape[:2]).mean(dim=1).cpu())
            if world.is_first:
                on_stage("test", sum(map(len, scores)), len(mine))
    return world.collect(torch.cat(scores), num_videos).numpy()
