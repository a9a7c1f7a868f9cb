"""SCALE's pre-training as a function of its settings: a set predictor out of a store of clips."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featcache.config import to_yaml
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.clip_sets import ClipSets, open_clip_sets, placed, with_coordinates
from featcache.methods.scale.batched import train_stack
from featcache.methods.scale.heads import ScalePretraining
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.settings import ScaleSettings
from featcache.networks.set_predictor import SetPredictor
from featcache.training.generators import seeded_torch
from featcache.training.identity import Identity, identity_of
from featcache.training.logs import read_log
from featcache.training.loop import Progress, train
from featcache.training.runs import prepare_torch, run_folder, seed_folder

OnSeed = Callable[[int, Progress], None]


def ignore(seed: int, progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult:
    """A pre-training run.

    Attributes:
        folder: Where it is.
        num_videos: Videos that it learned from.
        num_left_out: Training videos with fewer than two clips.
        num_parameters: Of the predictor, which is kept.
        num_head_parameters: Of the heads, which are not.
        seeds: The last line of each seed's log.
    """

    folder: str
    num_videos: int
    num_left_out: int
    num_parameters: int
    num_head_parameters: int
    seeds: Mapping[int, Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**dataclasses.asdict(self), "seeds": {str(seed): dict(line) for seed, line in self.seeds.items()}}


def pretrain_scale(
    settings: ScaleSettings, *, sets: ClipSets | None = None, on_progress: OnSeed = ignore
) -> ScaleResult:
    """Train a set predictor, once a seed; runs that are there are taken up or left as they are.

    Args:
        settings: Everything that can be chosen.
        sets: Clips to learn from; ``None`` opens what the settings name.
        on_progress: Called with the seed and its progress.

    Raises:
        ConfigError: A store without clips, vectors or coordinates; too few clips or videos; a batch of one video.
        NonFiniteFeatureError: Features that are not finite.
    """
    device = prepare_torch(settings.training)
    if sets is None:
        sets = open_clip_sets(settings.sets, form=settings.predictor.position, only_training=True)
    folder = run_folder(settings, out=settings.out, store=settings.sets.store, name="scale")
    seen = placed(with_coordinates(sets, settings.coordinates), storage=settings.sets.storage, device=device)
    seeds = settings.training.seeds
    facts = {
        "method": "scale",
        "predictor": dataclasses.asdict(settings.predictor),
        "width_in": seen.features.shape[1],
        "coordinates": settings.coordinates,
    }
    identities = {seed: _identity(settings, sets, seed) for seed in seeds}
    objectives = (_objective(settings, seen, seed=seed, device=device) for seed in seeds)
    if settings.batched_seeds and len(seeds) > 1:
        together = dict(zip(seeds, objectives, strict=True))
        put_replace(folder / "config.yaml", to_yaml(settings).encode())
        train_stack(
            together, settings.training, folder=folder, identities=identities, facts=facts, on_progress=on_progress
        )
        objective = together[seeds[0]]
    else:
        for seed, objective in zip(seeds, objectives, strict=True):
            put_replace(folder / "config.yaml", to_yaml(settings).encode())
            train(
                objective,
                settings.training,
                folder=seed_folder(folder, seed),
                seed=seed,
                identity=identities[seed],
                facts=facts,
                on_progress=lambda progress, seed=seed: on_progress(seed, progress),  # type: ignore[misc]
            )
    num_parameters = sum(parameter.numel() for parameter in objective.trained.predictor.parameters())
    result = ScaleResult(
        folder=str(folder),
        num_videos=len(sets.video_ids) - objective.num_left_out,
        num_left_out=objective.num_left_out,
        num_parameters=num_parameters,
        num_head_parameters=sum(parameter.numel() for parameter in objective.trained.parameters()) - num_parameters,
        seeds={seed: read_log(seed_folder(folder, seed))[-1] for seed in seeds},
    )
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def _objective(settings: ScaleSettings, sets: ClipSets, *, seed: int, device: torch.device) -> ScaleObjective:
    return ScaleObjective(
        sets,
        settings.loss,
        module=build_module(settings, width_in=sets.features.shape[1], seed=seed).to(device),
        clips_per_set=settings.clips_per_set,
        batch_size=settings.training.batch_size,
        seed=seed,
        is_compiled=settings.compile,
    )


def build_module(settings: ScaleSettings, *, width_in: int, seed: int) -> ScalePretraining:
    """Predictor and heads as a run of this seed begins, on the CPU."""
    with seeded_torch(seed, "scale"):
        predictor = SetPredictor(settings.predictor, width_in=width_in)
        return ScalePretraining(predictor, settings.heads, settings.loss)


def _identity(settings: ScaleSettings, sets: ClipSets, seed: int) -> Identity:
    seeds = list(settings.training.seeds)
    together = settings.batched_seeds and len(seeds) > 1  # what dropout draws for one depends on the others
    return identity_of(
        settings,
        inputs={"sets.store": sets.identity},
        seed=seed,
        beside={"seeds trained as one": seeds} if together else {},
    )
