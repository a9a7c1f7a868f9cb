"""The two stages as functions of their settings: pre-train a module on playback rate, fine-tune it on labels."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import to_yaml
from featcache.errors import ConfigError, NonFiniteFeatureError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import training_videos, video_splits
from featcache.loaders.online import open_source
from featcache.methods.advise.cost import counted_cost, measured_cost
from featcache.methods.advise.finetune import FineTuneObjective
from featcache.methods.advise.pretext import PlaybackRateObjective
from featcache.methods.advise.settings import AdviseSettings, TmmFineTuneSettings
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import TmmClassifier
from featcache.store.reader import open_store
from featcache.training.checkpoint import checkpoint_digest, taking_up
from featcache.training.generators import seeded_torch
from featcache.training.identity import digest, identity_of
from featcache.training.logs import read_log
from featcache.training.loop import Progress, train, trained_state
from featcache.training.runs import find_seed, prepare_torch, run_folder, seed_folder

OnSeed = Callable[[int, Progress], None]


def ignore(seed: int, progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretextResult:
    """A pre-training run.

    Attributes:
        folder: Where it is.
        num_videos: Videos that it saw.
        num_parameters: Trained parameters, head included.
        seeds: The last line of each seed's log.
        cost: Counts of :func:`featcache.methods.advise.cost.counted_cost` and what ``measured_cost`` says of the runs.
    """

    folder: str
    num_videos: int
    num_parameters: int
    seeds: Mapping[int, Mapping[str, float]]
    cost: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**dataclasses.asdict(self), "seeds": {str(seed): dict(line) for seed, line in self.seeds.items()}}


def pretrain(
    settings: AdviseSettings, *, source: ClipSource | None = None, on_progress: OnSeed = ignore
) -> PretextResult:
    """Train a temporal module on playback rate, once a seed; runs that are there are taken up or left as they are.

    Args:
        settings: Everything that can be chosen.
        source: Where maps come from; ``None`` opens what the settings name.
        on_progress: Called with the seed and its progress.

    Raises:
        ConfigError: A bank too coarse, or a store without one.
        NonFiniteFeatureError: Features that are not finite.
    """
    device = prepare_torch(settings.training)
    store = open_store(Path(settings.bank.store))
    bank = source or open_source(settings.bank, store=store, device=settings.training.device)
    videos = training_videos(bank.video_ids, video_splits(store, settings.bank.split_column), settings.bank.train_split)
    folder = run_folder(settings, out=settings.out, store=settings.bank.store, name="advise")
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    logs, num_parameters = {}, 0
    for seed in settings.training.seeds:
        with seeded_torch(seed, "tmm"):
            module = TmmClassifier(
                settings.tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=len(settings.clips.rates)
            ).to(device)
        num_parameters = sum(parameter.numel() for parameter in module.parameters())
        objective = PlaybackRateObjective(
            bank, videos, settings.clips, module=module, batch_size=settings.training.batch_size, seed=seed
        )
        check_finite(objective, bank)
        train(
            objective,
            settings.training,
            folder=seed_folder(folder, seed),
            seed=seed,
            identity=identity_of(settings, inputs=clip_contents(bank, videos), seed=seed),
            facts={"method": "advise", "tmm": dataclasses.asdict(settings.tmm), "width_in": bank.shape[2]},
            on_progress=lambda progress, seed=seed: on_progress(seed, progress),  # type: ignore[misc]
        )
        logs[seed] = read_log(seed_folder(folder, seed))[-1]
    cost = counted_cost(
        settings.tmm, shape=bank.shape, num_frames=settings.clips.num_frames, num_classes=len(settings.clips.rates)
    )
    result = PretextResult(
        folder=str(folder),
        num_videos=len(videos),
        num_parameters=num_parameters,
        seeds=logs,
        cost={
            **cost,
            **measured_cost(
                list(logs.values()),
                num_videos=min(settings.training.batch_size, len(videos)),
                num_clips=settings.clips.num_clips,
            ),
        },
    )
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def fine_tune(
    settings: TmmFineTuneSettings,
    bank: ClipSource,
    *,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    num_classes: int,
    seed: int,
    folder: Path,
    on_progress: OnSeed = ignore,
) -> TmmClassifier:
    """Train a module and a new head on labelled videos; ``settings.init`` says where the module starts from.

    Args:
        settings: Everything that can be chosen.
        bank: Where maps come from.
        videos: int64 [A], video numbers of ``bank``.
        labels: int64 [A], their classes.
        num_classes: Outputs of the head.
        seed: Of the run.
        folder: Of this seed.
        on_progress: Called with the seed and its progress.
    """
    device = prepare_torch(settings.training)
    tmm, state = initial_module(settings, seed=seed, width_in=bank.shape[2])
    with seeded_torch(seed, "tmm"):
        module = TmmClassifier(tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=num_classes)
    if state is not None:
        module.tmm.load_state_dict(state)
    module.to(device)
    objective = FineTuneObjective(bank, videos, labels, settings, module=module, seed=seed)
    check_finite(objective, bank)
    contents = {**clip_contents(bank, videos), "labels": digest([labels.tolist(), num_classes])}
    if settings.init is not None:
        contents["init"] = checkpoint_digest(find_seed(Path(settings.init), seed))
    trained = train(
        objective,
        settings.training,
        folder=folder,
        seed=seed,
        identity=identity_of(settings, inputs=contents, seed=seed),
        facts={"method": "tmm", "tmm": dataclasses.asdict(tmm), "width_in": bank.shape[2], "num_classes": num_classes},
        on_progress=lambda progress: on_progress(seed, progress),
    )
    assert isinstance(trained, TmmClassifier)
    return trained


def initial_module(
    settings: TmmFineTuneSettings, *, seed: int, width_in: int
) -> tuple[TmmSettings, dict[str, Any] | None]:
    """Shape and weights of the module to start from; weights are ``None`` from scratch.

    Raises:
        ConfigError: Another shape or width than that of ``init``.
    """
    if settings.init is None:
        return settings.tmm or TmmSettings(), None
    checkpoint = trained_state(find_seed(Path(settings.init), seed))
    if "tmm" not in checkpoint.facts:
        raise ConfigError(f"{settings.init} is no run of `featcache train advise`; give one that is")
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
    prefix = "tmm."
    module = checkpoint.part("ema.module") or checkpoint.part("module")
    state = {name.removeprefix(prefix): value for name, value in module.items() if name.startswith(prefix)}
    return settings.tmm or tmm, state


def check_finite(objective: PlaybackRateObjective | FineTuneObjective, bank: ClipSource) -> None:
    """Look at the first batch before hours of training.

    Raises:
        NonFiniteFeatureError: A value is NaN or infinite.
    """
    for part in objective.parts(0, 0):
        if not bool(part.maps.isfinite().all()):
            raise NonFiniteFeatureError(
                f"features of {bank.video_ids[0]!r} or its neighbours hold NaN or infinity; extract this feature again "
                "as float32"
            )


def clip_contents(source: ClipSource, videos: npt.NDArray[np.int64], *, name: str = "bank.store") -> dict[str, str]:
    """Digests of what a run reads: a source under the name of its setting, and which of its videos teach."""
    return {name: source.identity, "videos": digest([source.video_ids[video] for video in videos.tolist()])}
