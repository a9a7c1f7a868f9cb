"""SCALE's pre-training as a function of its settings: trains a set predictor on a store of clips."""

import dataclasses
from dataclasses import dataclass

from featcache.loaders.clip_sets import ClipSets, open_clip_sets, placed, with_coordinates
from featcache.methods.scale.batched import StackObjective
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings, ScaleSettings
from featcache.networks.counting import count_parameters
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.set_pretraining import ScalePretraining
from featcache.stages import OnStage, ignore
from featcache.training.generators import seeded_torch
from featcache.training.pretrained import PretrainedResult
from featcache.training.seeds import SeedRuns, open_runs
from featcache.training.stack import train_stack
from featcache.training.world import World, join_world


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult(PretrainedResult):
    """A pre-training run; videos with fewer than two clips are left out."""

    title = "set predictor, last epoch"
    columns = {name: name for name in ("loss", "mcm", "mcm_accuracy", "set", "set_accuracy")} | {
        "items_per_second": "videos/s"
    }
    kept = "predictor"
    left_out = "videos with fewer than two clips"


def pretrain_scale(settings: ScaleSettings, *, sets: ClipSets | None = None, on_stage: OnStage = ignore) -> ScaleResult:
    """Train a set predictor, once per seed; unfinished runs are resumed, finished ones kept.

    Processes started by torchrun share each batch, in which clips and sets are compared with those of all processes:
    the run is the same for any number of them, up to rounding and the draws of dropout, and may be resumed with another
    number. The first process writes files and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        sets: Clips to train on; ``None`` opens those that the settings name.
        on_stage: Called with the stage ``seed N`` after each step.

    Raises:
        ConfigError: The store has no clips, vectors or coordinates, there are too few clips or videos, the batch size
            is 1, or the processes cannot share a batch equally.
        NonFiniteFeatureError: Features are not finite.
        StoppedError: Another process has raised an error.
    """
    with join_world() as world:
        return _pretrain(settings, world, sets=sets, on_stage=on_stage)


def _pretrain(settings: ScaleSettings, world: World, *, sets: ClipSets | None, on_stage: OnStage) -> ScaleResult:
    store, seeds = settings.sets.store, settings.training.seeds
    runs = open_runs(
        settings,
        settings.training,
        name="scale",
        of=store,
        out=settings.out,
        items="videos",
        world=world,
        on_stage=on_stage,
    )
    if sets is None:
        sets = open_clip_sets(settings.sets, form=settings.predictor.position, only_training=True)
    seen = placed(with_coordinates(sets, settings.coordinates), storage=settings.sets.storage, device=runs.device)
    facts = {
        "method": "scale",
        "predictor": dataclasses.asdict(settings.predictor),
        "width_in": seen.features.shape[1],
        "coordinates": settings.coordinates,
    }
    together = settings.batched_seeds and len(seeds) > 1  # the dropout draws of a seed depend on the other seeds
    beside = {"seeds trained as one": list(seeds)} if together else {}
    identities = {seed: runs.identity(seed, {"sets.store": sets.identity}, beside=beside) for seed in seeds}
    objectives = ((seed, _objective(settings, seen, runs, seed=seed)) for seed in seeds)
    if together:
        stack = dict(objectives)
        train_stack(lambda: StackObjective(stack), runs, identities=identities, facts=facts)
        objective = stack[seeds[0]]
    else:
        for seed, objective in objectives:
            runs.train(objective, seed=seed, identity=identities[seed], facts=facts)
    num_parameters = count_parameters(objective.trained.predictor)
    several = f" --set scale_linear.training.seeds=[{','.join(map(str, seeds))}]" if len(seeds) > 1 else ""
    return runs.finish(
        ScaleResult(
            folder=str(runs.folder),
            num_videos=len(sets.video_ids) - objective.num_left_out,
            num_left_out=objective.num_left_out,
            num_parameters=num_parameters,
            num_head_parameters=count_parameters(objective.trained) - num_parameters,
            seeds=runs.lines,
            next_command=f"featcache probe scale-linear {store} --model {runs.folder}{several}",
        )
    )


def _objective(settings: ScaleSettings, sets: ClipSets, runs: SeedRuns, *, seed: int) -> ScaleObjective:
    return ScaleObjective(
        sets,
        settings.loss,
        module=build_module(settings, width_in=sets.features.shape[1], seed=seed).to(runs.device),
        clips_per_set=settings.clips_per_set,
        batch_size=settings.training.batch_size,
        seed=seed,
        compiled=settings.compile,
        draws=settings.draws,
        world=runs.world,
    )


def build_module(settings: ScaleSettings, *, width_in: int, seed: int) -> ScalePretraining:
    """Initial predictor and heads of a run with this seed, on the CPU."""
    with seeded_torch(seed, "scale"):
        predictor = SetPredictor(settings.predictor, width_in=width_in)
        return with_heads(predictor, settings.heads, settings.loss)


def with_heads(predictor: SetPredictor, heads: ScaleHeadSettings, loss: ScaleLossSettings) -> ScalePretraining:
    """A predictor with new heads, only those that the losses need."""
    return ScalePretraining(
        predictor,
        heads,
        predicts=None if not loss.mcm_weight else "all clips" if loss.symmetric else "masked clips",
        set_loss=loss.set_loss if loss.set_weight else None,
        num_prototypes=loss.num_prototypes,
    )
