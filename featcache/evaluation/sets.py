"""Probes over sets of clips: ``transformer``, ``scale-linear`` and ``scale-ft``.

All classify each clip from its vector and the summary of its set, [x; CLS] (SCALE §4.1). The set predictor is trained
from random weights, or is pre-trained and frozen, or is pre-trained and trained further.
"""

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from featcache.errors import ConfigError
from featcache.evaluation.clip_probe import probe_clips
from featcache.evaluation.clip_training import CLIPS_AT_ONCE, clip_table, iter_clips
from featcache.evaluation.data import ProbeData
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import ScaleFtSettings, ScaleLinearSettings, TransformerSettings
from featcache.evaluation.stack import Embedding
from featcache.methods.scale.saved import SavedPredictor, load_predictor
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.recipes import PositionForm


class ModelSettings(Protocol):
    """Settings of a probe with a pre-trained predictor."""

    @property
    def model(self) -> str | None:
        """Folder of the predictor's run."""


class SetEmbedder(nn.Module):
    """Each clip with the summary of its set, [x; CLS], and optionally its refined token; nothing is masked."""

    def __init__(self, predictor: SetPredictor, *, refined: bool) -> None:
        super().__init__()
        self.predictor = predictor
        self.refined = refined

    def forward(self, features: Tensor, positions: Tensor, present: Tensor | None) -> Tensor:
        """Float [B, K, D] and [B, K, P] to [B, K, :func:`embedded_width`]."""
        output = self.predictor(features, positions, present=present)
        summary = output.summary[..., None, :].expand(*features.shape[:-1], -1)
        return torch.cat([features, summary, *([output.clips] if self.refined else [])], dim=-1)


def embedded_width(predictor: SetPredictorSettings, *, width_in: int, refined: bool) -> int:
    """Number of output channels of :class:`SetEmbedder` for clips of ``width_in`` channels."""
    return width_in + predictor.width * (2 if refined else 1)


def saved_form(settings: ModelSettings) -> PositionForm:
    """The form of positions of a saved predictor."""
    return _load(settings.model, seed=None).settings.position


def transformer(task: Task, settings: TransformerSettings, /) -> Prediction:
    """SCALE's baseline "Transformer": the same network and training as ``scale-ft``, without pre-training."""
    width_in = task.data.features.shape[1]

    def make(seed: int) -> SetEmbedder:
        return SetEmbedder(SetPredictor(settings.predictor, width_in=width_in), refined=settings.refined)

    embedding = Embedding(
        make=make,
        width=embedded_width(settings.predictor, width_in=width_in, refined=settings.refined),
        form=settings.predictor.position,
    )
    return probe_clips(task, embedding, settings.training)


def scale_linear(task: Task, settings: ScaleLinearSettings, /) -> Prediction:
    """SCALE_linear: the predictor is frozen, in eval mode; it summarises the drawn clips, at test time all clips."""
    embedding = _saved_embedding(task.data, settings.model, refined=settings.refined, is_frozen=True)
    return with_notes(probe_clips(task, embedding, settings.training), task.data)


def scale_ft(task: Task, settings: ScaleFtSettings, /) -> Prediction:
    """SCALE_ft: projection, positions, tokens and blocks are trained; the stored features do not change."""
    embedding = _saved_embedding(task.data, settings.model, refined=settings.refined, is_frozen=False)
    return with_notes(probe_clips(task, embedding, settings.training), task.data)


def with_notes(prediction: Prediction, data: ProbeData) -> Prediction:
    """The prediction with notes that readers of a pre-trained predictor's numbers should know."""
    if any(data.splits):
        return prediction
    note = "the store has no splits: a predictor pre-trained on it saw the scored videos too, without their labels"
    return dataclasses.replace(prediction, notes=(*prediction.notes, note))


def with_summaries(data: ProbeData, *, model: str, seed: int | None, device: str) -> ProbeData:
    """The same rows, each with the summary of all clips of its video, [x; CLS]: float32 [N, D + W]."""
    saved = _checked(data, _load(model, seed=seed))
    embed = SetEmbedder(saved.predictor, refined=False).to(device)
    table = clip_table(data, form=saved.settings.position, coordinates=saved.coordinates, device=device)
    videos = np.arange(len(data.videos))
    found = []
    with torch.no_grad():
        for _, features, positions, present in iter_clips(table, videos, at_once=CLIPS_AT_ONCE):
            vectors = embed(features, positions, present)
            found.append((vectors.flatten(0, 1) if present is None else vectors[present]).cpu().numpy())
    return dataclasses.replace(data, features=np.concatenate(found))


def _saved_embedding(data: ProbeData, model: str | None, *, refined: bool, is_frozen: bool) -> Embedding:
    first = _checked(data, _load(model, seed=None))

    def make(seed: int) -> SetEmbedder:
        return SetEmbedder(_checked(data, _load(model, seed=seed)).predictor, refined=refined)

    return Embedding(
        make=make,
        width=embedded_width(first.settings, width_in=first.width_in, refined=refined),
        form=first.settings.position,
        coordinates=first.coordinates,
        is_frozen=is_frozen,
    )


def _load(model: str | None, *, seed: int | None) -> SavedPredictor:
    """The predictor of a seed; ``None`` takes the first, since all seeds of a run have the same shape."""
    if model is None:
        raise ConfigError(
            "this probe starts from a pre-trained set predictor; give the folder of a `featcache train scale` run by "
            "--model"
        )
    folder = Path(model)
    if seed is None:
        seeds = sorted(folder.glob("seed-*/checkpoint.json"))
        folder = seeds[0].parent if seeds else folder
    return load_predictor(folder, seed=seed)


def _checked(data: ProbeData, saved: SavedPredictor) -> SavedPredictor:
    width = data.features.shape[1]
    if saved.width_in != width:
        raise ConfigError(
            f"feature {data.feature!r} of {data.store} has {width} channels and the set predictor was trained on "
            f"{saved.width_in}; name the feature that it was trained on, or train one on this"
        )
    return saved
