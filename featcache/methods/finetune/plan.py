"""What a fine-tuning would take."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from featcache.backbones.registry import check_name
from featcache.backbones.trainable import weights_at_hand
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.labelled import read_data
from featcache.loaders.sample import measure_source
from featcache.methods.finetune.module import build_classifier
from featcache.methods.finetune.objective import FinetuneObjective
from featcache.methods.finetune.sampling import clip_source
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.plan import TrainingPlan, forecast, step_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan(TrainingPlan):
    """Plan of a run.

    Attributes:
        num_classes: Number of classes of the training videos.
        num_test: Number of test videos by split.
        num_views: Number of views of a test video.
        feature: Feature that the head reads: layer and output.
    """

    num_classes: int
    num_test: Mapping[str, int]
    num_views: int
    feature: str

    def summary(self) -> Summary:
        """The plan in words."""
        tests = ", ".join(f"{num} in {split}" for split, num in self.num_test.items())
        facts = {
            "train": f"{self.num_train} videos of {self.num_classes} classes",
            "test": f"{tests}, {self.num_views} views",
            "head reads": self.feature,
        }
        return self.summary_of(facts)


def plan_finetune(settings: FinetuneSettings, *, on_stage: OnStage = ignore) -> FinetunePlan:
    """Scan the videos, decode some, build the classifier, and return the plan of a run.

    Nothing is written or downloaded; weights that are not at hand are named, and random ones take their place.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stages ``scan`` and ``decode``.

    Raises:
        FeatcacheError: Those errors of :func:`finetune` that occur before training, but for missing weights.
    """
    check_name(settings.backbone)
    data = read_data(settings, on_stage=on_stage)
    training = settings.training
    weights, missing = weights_at_hand(settings.backbone, settings.weights)
    module = build_classifier(
        settings.model_copy(update={"weights": weights}),
        num_classes=data.num_taught,
        seed=training.seeds[0],
        device=torch.device("cpu"),
    )
    source = clip_source(settings, module, seed=training.seeds[0])
    objective = FinetuneObjective(
        ViewLoader(source, data.train.files, workers=0),
        data.train.labels,
        module=module,
        batch_size=training.batch_size,
        num_epochs=training.epochs,
        seed=0,
    )
    recipe = module.recipe
    return FinetunePlan(
        num_train=len(data.train.labels),
        num_left_out=data.num_left_out,
        num_classes=data.num_taught,
        num_test={split: len(videos.labels) for split, videos in data.tests.items()},
        num_views=settings.test.num_clips * settings.test.num_crops,
        clip=(module.num_frames, recipe.input_size, recipe.input_size),
        feature=f"{recipe.layer} {recipe.output}",
        num_parameters=count_parameters(module.network),
        num_trained=count_trained(module),
        num_steps=training.epochs * training.steps_an_epoch(objective.num_batches),
        num_seeds=len(training.seeds),
        forecast=forecast(
            training,
            num_videos=len(data.train.labels),
            cost=step_cost(
                module,
                training,
                kept=None if settings.frozen else module.network,
                whole=module,
                trained_macs=0 if settings.frozen else module.macs,
                frozen_macs=module.macs if settings.frozen else 0,
            ),
            decoding=measure_source(source, data.train.files, on_stage=on_stage),
            out=settings.out,
            missing=missing,
        ),
    )
