"""One pass over some videos with a network that is not trained: a row of numbers for each that can be decoded."""

from collections.abc import Callable

import torch
from torch import Tensor

from featcache.loaders.ahead import ViewLoader
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.videos import VideoFiles
from featcache.machine import keep_freed_memory
from featcache.training.settings import Precision
from featcache.training.world import World


def rows_of_videos(
    compute: Callable[[Tensor], Tensor],
    source: RecipeSource,
    files: VideoFiles,
    *,
    width: int,
    workers: int,
    world: World,
    on_progress: Callable[[int, int], None],
) -> tuple[list[int], Tensor]:
    """Decode videos once, each in one process, and compute a row for each; bounded memory is decoded ahead. Collective.

    Args:
        compute: From the views of some videos, uint8 [B, V, T, 3, S, S], to float64 [B, width]; called without
            gradients.
        source: The views of each video.
        files: The videos.
        width: Length of a row.
        workers: Number of decoding processes; 0: this process.
        world: The processes that share the videos; each takes every ``size``-th.
        on_progress: Called in the first process with videos done and in total, of its own.

    Returns:
        Numbers of the M videos that can be decoded, and their rows, float64 [M, width]; in every process.

    Raises:
        VideoError: A video is missing or has changed since it was scanned.
    """
    mine = world.mine(len(files.videos))
    place_of = {number: place for place, number in enumerate(mine)}
    rows = torch.zeros(len(mine), 1 + width, dtype=torch.float64)  # 1 if it decoded, then its numbers
    batches = source.batches(mine, at_least=workers)
    with ViewLoader(source, files, workers=workers) as loader, torch.no_grad():
        for number, batch in enumerate(batches):
            decoded = loader.decodable(batch, following=batches[number + 1 :])
            places = [place_of[video] for video in decoded.videos]
            for views in decoded.arrays:  # one, or none if all are damaged
                rows[places, 0] = 1.0
                rows[places, 1:] = compute(views)
            if world.is_first:
                on_progress(place_of[batch.videos[-1]] + 1, len(mine))
    found = world.collect(rows, len(files.videos))
    numbers = found[:, 0].nonzero().flatten().tolist()
    return numbers, found[numbers, 1:]


def through(
    network: Callable[[Tensor], Tensor],
    views: Tensor,
    *,
    clips_at_once: int,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """Outputs float64 [B * V, C] of a network for all views of some videos, some clips at a time.

    Args:
        network: From clips uint8 [N, T, 3, S, S] on the device to floating [N, C].
        views: uint8 [B, V, T, 3, S, S], on the CPU.
        clips_at_once: Number of clips per forward pass.
        device: Device of the network and of the outputs.
        precision: Dtype of the forward pass.
    """
    keep_freed_memory(device.type)
    parts = []
    for clips in torch.split(views.flatten(0, 1), clips_at_once):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            parts.append(network(clips.to(device, non_blocking=True)).double())
    return torch.cat(parts)
