"""The probe ``mlp``: a classifier on each clip's vector and an MLP's output for it."""

import itertools

import torch
from torch import Tensor, nn

from featcache.evaluation.clip_probe import probe_clips
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import MlpSettings
from featcache.evaluation.stack import Embedding


class ClipMlp(nn.Module):
    """Each clip with the output of an MLP, [x; h]: linear layers with ReLU between them, for each clip separately."""

    def __init__(self, hidden: tuple[int, ...], *, width_in: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((width_in, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor, positions: Tensor | None, present: Tensor | None) -> Tensor:
        """Float [B, K, D] to [B, K, D + last width]; positions and padding are ignored."""
        return torch.cat([features, self.layers(features)], dim=-1)


def mlp(task: Task, settings: MlpSettings, /) -> Prediction:
    """SCALE's baseline "MLP": D -> 2048 -> 2048 -> 512, then a linear layer on [x; h] of D + 512 channels.

    A step uses 8 random clips of each video, each of which is an example, as in SCALE's probes of sets.
    """
    width = task.data.features.shape[1]
    embedding = Embedding(make=lambda seed: ClipMlp(settings.hidden, width_in=width), width=width + settings.hidden[-1])
    return probe_clips(task, embedding, settings.training)
