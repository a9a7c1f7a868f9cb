"""The two stages as functions of their settings: pre-train a module on the playback rate, fine-tune it on labels."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError, NonFiniteFeatureError
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import training_videos, video_splits
from featcache.loaders.online import open_source
from featcache.methods.advise.playback import PlaybackRateObjective
from featcache.methods.advise.settings import AdviseSettings, R3d50Settings, TmmFineTuneSettings
from featcache.methods.advise.tuning import FineTuneObjective
from featcache.networks.counting import count_parameters
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.networks.tmm_cost import counted_cost
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.summary import Summary, SummaryTable
from featcache.training.checkpoint import checkpoint_digest, taking_up
from featcache.training.cost import measured_cost
from featcache.training.generators import seeded_torch
from featcache.training.identity import digest, identity_of
from featcache.training.loop import trained_state
from featcache.training.runs import find_seed
from featcache.training.seeds import SeedRuns, open_runs, result_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackResult:
    """A pre-training run.

    Attributes:
        folder: The run's folder.
        num_videos: Number of training videos.
        num_parameters: Number of trained parameters, including the head.
        seeds: The last line of each seed's log.
        cost: Counts of :func:`featcache.networks.tmm_cost.counted_cost` and what ``measured_cost`` says of the runs.
        next_command: The fine-tuning of its module, where it has one.
    """

    folder: str
    num_videos: int
    num_parameters: int
    seeds: Mapping[int, Mapping[str, float]]
    cost: Mapping[str, float | None]
    next_command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return result_dict(self)

    def summary(self) -> Summary:
        """The last epoch of each seed."""
        rows = tuple(
            (str(seed), f"{line['loss']:.3f}", f"{100 * line['accuracy']:.1f}", f"{line['items_per_second']:.3g}")
            for seed, line in self.seeds.items()
        )
        columns = ("seed", "loss", "rate accuracy", "clips/s")
        return Summary(
            tables=(SummaryTable(title="pretext, last epoch", columns=columns, rows=rows),),
            facts={"videos": self.num_videos, "parameters": f"{self.num_parameters:,}", "run": self.folder},
            next_command=self.next_command,
        )


def pretrain(
    settings: AdviseSettings, *, source: ClipSource | None = None, on_stage: OnStage = ignore
) -> PlaybackResult:
    """Train a temporal module on the playback rate, once per seed; unfinished runs are resumed, finished ones kept.

    Args:
        settings: Settings of the run.
        source: Source of the maps; ``None`` opens the one that the settings name.
        on_stage: Called with the stage ``seed N`` after each step.

    Raises:
        ConfigError: The bank is too coarse, or the store has none.
        NonFiniteFeatureError: Features are not finite.
    """
    where, training, clips = settings.bank.store, settings.training, settings.clips
    runs = open_runs(settings, training, name="advise", of=where, out=settings.out, on_stage=on_stage)
    store = open_store(Path(where))
    bank = source or open_source(settings.bank, store=store, device=training.device)
    videos = training_videos(bank.video_ids, video_splits(store, settings.bank.split_column), settings.bank.train_split)
    facts = {"method": "advise", "tmm": dataclasses.asdict(settings.tmm), "width_in": bank.shape[2]}
    for seed in training.seeds:
        with seeded_torch(seed, "tmm"):
            module = TmmClassifier(
                settings.tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=len(clips.rates)
            ).to(runs.device)
        objective = PlaybackRateObjective(bank, videos, clips, module=module, batch_size=training.batch_size, seed=seed)
        check_finite(objective, bank)
        runs.train(objective, seed=seed, identity=runs.identity(seed, clip_contents(bank, videos)), facts=facts)
    counts = counted_cost(settings.tmm, shape=bank.shape, num_frames=clips.num_frames, num_classes=len(clips.rates))
    following = f"featcache train tmm {where} --init {runs.folder}"
    return runs.finish(playback_result(runs, settings, videos, count_parameters(module), counts, following))


def playback_result(
    runs: SeedRuns,
    settings: AdviseSettings | R3d50Settings,
    videos: npt.NDArray[np.int64],
    num_parameters: int,
    counts: Mapping[str, float],
    next_command: str | None = None,
) -> PlaybackResult:
    """The result of finished runs of the pretext task, with their cost.

    Args:
        runs: Runs, trained with every seed.
        settings: Settings of the method.
        videos: int64 [A], the training videos.
        num_parameters: Number of trained parameters.
        counts: Counts of the module, in addition to the measurements of the runs.
        next_command: A command that people often run next.
    """
    measured = measured_cost(
        list(runs.lines.values()),
        num_videos=min(settings.training.batch_size, len(videos)),
        num_clips=settings.clips.num_clips,
    )
    return PlaybackResult(
        folder=str(runs.folder),
        num_videos=len(videos),
        num_parameters=num_parameters,
        seeds=runs.lines,
        cost={**counts, **measured},
        next_command=next_command,
    )


def fine_tune(
    settings: TmmFineTuneSettings,
    bank: ClipSource,
    *,
    runs: SeedRuns,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    num_classes: int,
    seed: int,
    within: str = "",
) -> TmmClassifier:
    """Train a module and a new head on labelled videos; ``settings.init`` names the initial module.

    Args:
        settings: Settings of the run.
        bank: Source of the maps.
        runs: The run to which it belongs.
        videos: int64 [A], video numbers of ``bank``.
        labels: int64 [A], classes of the videos.
        num_classes: Number of outputs of the head.
        seed: Seed of the run.
        within: Parent of the seed's folder, relative to the run's folder.
    """
    tmm, state = initial_module(settings, seed=seed, width_in=bank.shape[2])
    with seeded_torch(seed, "tmm"):
        module = TmmClassifier(
            tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=num_classes, is_frozen=settings.frozen
        )
    if state is not None:
        module.tmm.load_state_dict(state)
    module.to(runs.device)
    objective = FineTuneObjective(bank, videos, labels, settings, module=module, seed=seed)
    check_finite(objective, bank)
    contents = {**clip_contents(bank, videos), "labels": digest([labels.tolist(), num_classes])}
    if settings.init is not None:
        contents["init"] = checkpoint_digest(find_seed(Path(settings.init), seed))
    trained = runs.train(
        objective,
        seed=seed,
        identity=identity_of(settings, inputs=contents, seed=seed),
        facts={"method": "tmm", "tmm": dataclasses.asdict(tmm), "width_in": bank.shape[2], "num_classes": num_classes},
        within=within,
    )
    assert isinstance(trained, TmmClassifier)
    return trained


def initial_module(
    settings: TmmFineTuneSettings, *, seed: int, width_in: int
) -> tuple[TmmSettings, dict[str, Any] | None]:
    """Shape and initial weights of the module; the weights are ``None`` for training from scratch.

    Raises:
        ConfigError: Shape or width differ from those of ``init``.
    """
    if settings.init is None:
        return settings.tmm or TmmSettings(), None
    checkpoint = trained_state(find_seed(Path(settings.init), seed))
    if "tmm" not in checkpoint.facts:
        raise ConfigError(f"{settings.init} is not a run of `featcache train advise`; give one that is")
    with taking_up(Path(settings.init)):
        tmm, width = TmmSettings(**checkpoint.facts["tmm"]), checkpoint.facts["width_in"]
    if settings.tmm is not None and dataclasses.replace(tmm, head_hidden=1, dropout=0.0) != dataclasses.replace(
        settings.tmm, head_hidden=1, dropout=0.0
    ):
        raise ConfigError(f"{settings.init} holds another module ({tmm}); leave tmm out to take its shape")
    if width != width_in:
        raise ConfigError(
            f"the module of {settings.init} was trained on {width} channels, this feature has "
            f"{width_in}; choose a feature of that width, or train from scratch"
        )
    return settings.tmm or tmm, checkpoint.weights_of("tmm")


def check_finite(objective: PlaybackRateObjective | FineTuneObjective, bank: ClipSource) -> None:
    """Check the first batch before hours of training.

    Raises:
        NonFiniteFeatureError: A value is NaN or infinite.
    """
    for part in objective.parts(0, 0):
        if not bool(part.maps.on("cpu").isfinite().all()):
            raise NonFiniteFeatureError(
                f"features of {bank.video_ids[0]!r} or its neighbours hold NaN or infinity; extract this feature again "
                "as float32"
            )


def clip_contents(source: ClipSource, videos: npt.NDArray[np.int64], *, name: str = "bank.store") -> dict[str, str]:
    """Digests of the data that a run reads: its source, under the name of the setting, and its training videos."""
    return {name: source.identity, "videos": digest([source.video_ids[video] for video in videos.tolist()])}
