"""Finished runs of ``train finetune``: their settings, models and test videos, for other commands."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from featcache.backbones.classifier_file import NAME, find_classifier
from featcache.config import parse, read_mapping
from featcache.errors import ConfigError
from featcache.loaders.labelled import LabelledSource, read_data
from featcache.methods.finetune.classifying import ReadyClassifier, fine_tuned
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.stages import OnStage, ignore
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        settings: Its settings.
        models: The classifier's file of each seed.
    """

    folder: Path
    settings: FinetuneSettings
    models: dict[int, Path]

    @classmethod
    def find(cls, given: str) -> Self:
        """Find a run; nothing heavy is read.

        Args:
            given: Folder of a run, which stands for all of its seeds, or of one seed.

        Raises:
            ConfigError: It is no such folder, the run is unfinished, or its settings cannot be read.
        """
        path = Path(given).expanduser()
        found = {path.name: path / NAME} if (path / NAME).is_file() else {}
        folder = path.parent if found else path
        found = found or {each.parent.name: each for each in sorted(path.glob(f"seed-*/{NAME}"))}
        seeds = {int(match[1]): found[name] for name in found if (match := re.fullmatch(r"seed-(\d{1,18})", name))}
        if not seeds:
            find_classifier(path)  # says what is wrong
            raise ConfigError(f"{given} is a model without its run; give the folder that `featcache train` wrote to")
        config = folder / "config.yaml"
        data = read_mapping(config) if config.is_file() else {}
        if data.get("command") != "train-finetune":
            raise ConfigError(f"{folder} holds no config.yaml of `train finetune`; give the folder of such a run")
        return cls(folder=folder, settings=parse(FinetuneSettings, data), models=dict(sorted(seeds.items())))

    def classifiers(
        self, *, device: torch.device, num_clips: int | None = None, num_crops: int | None = None
    ) -> dict[int, ReadyClassifier]:
        """The classifier of each seed, with the run's own test views or with another number of them.

        Args:
            device: Device of the modules.
            num_clips: Number of clips; ``None``: the run's.
            num_crops: Number of crops of each clip; ``None``: the run's.

        Raises:
            WeightsError: A file is damaged.
        """
        ready = {seed: fine_tuned(path, device=device) for seed, path in self.models.items()}
        return {
            seed: replace(
                each,
                views=replace(
                    each.views,
                    num_clips=num_clips or each.views.num_clips,
                    num_crops=num_crops or each.views.num_crops,
                ),
            )
            for seed, each in ready.items()
        }

    def data(self, classes: tuple[str, ...], *, world: World = ALONE, on_stage: OnStage = ignore) -> LabelledSource:
        """The videos of the run, listed anew.

        Args:
            classes: Classes of its classifiers.
            world: The processes that share the work.
            on_stage: Called with the stage ``scan``.

        Raises:
            ConfigError: The training videos have other classes than the classifiers.
            ManifestError: Videos are gone, or there are none to score.
        """
        data = read_data(self.settings, folder=self.folder, world=world, on_stage=on_stage)
        if data.classes[: data.num_taught] != classes:
            other = sorted(set(classes) ^ set(data.classes[: data.num_taught]))
            raise ConfigError(
                f"the videos of {self.folder} have other classes now than its model was trained on, e.g. {other[0]!r}; "
                "restore them, or train again"
            )
        return data
