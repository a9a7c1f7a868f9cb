"""Scores of test videos: logits of each view, averaged over the views of a video."""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.loaders.passes import rows_of_videos, through
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.videos import VideoFiles
from featcache.stages import OnStage, ignore
from featcache.training.settings import Precision
from featcache.training.world import ALONE, World

Scores = npt.NDArray[np.float64]


class ClipClassifier(Protocol):
    """A module from clips to logits, e.g. :class:`featcache.methods.finetune.module.VideoClassifier`.

    Attributes:
        num_classes: Number of logits.
    """

    num_classes: int

    def __call__(self, clips: Tensor) -> Tensor:
        """Logits [B, num_classes] of clips uint8 [B, T, 3, S, S] on the module's device."""

    def eval(self) -> Any:
        """Set evaluation mode."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters, on the module's device."""


def video_scores(
    module: ClipClassifier,
    source: RecipeSource,
    files: VideoFiles,
    *,
    workers: int,
    clips_at_once: int,
    average: Literal["softmax", "logits"],
    precision: Precision = "float32",
    world: World = ALONE,
    stage: str = "test",
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
        stage: Name of the stage.
        on_stage: Called in the first process with the stage, videos done and in total, of its own.

    Returns:
        Numbers of the M videos that were scored, which are all but damaged ones, and their scores, float64
        [M, num_classes]; in every process.

    Raises:
        VideoError: A video is missing or has changed since it was scanned.
    """
    module.eval()
    device = next(module.parameters()).device

    def scored(views: Tensor) -> Tensor:
        logits = through(module, views, clips_at_once=clips_at_once, device=device, precision=precision)
        values = logits.softmax(dim=1) if average == "softmax" else logits
        return torch.unflatten(values, 0, views.shape[:2]).mean(dim=1).cpu()

    numbers, scores = rows_of_videos(
        scored,
        source,
        files,
        width=module.num_classes,
        workers=workers,
        world=world,
        on_progress=lambda done, total: on_stage(stage, done, total),
    )
    return numbers, scores.numpy()
