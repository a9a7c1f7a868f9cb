"""What a distillation would take."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from featcache.backbones.registry import check_name
from featcache.backbones.trainable import weights_at_hand
from featcache.loaders.labelled import read_data
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.sample import measure_source
from featcache.methods.distill.module import Students
from featcache.methods.distill.run import build_students, sizes_of
from featcache.methods.distill.settings import DistillSettings
from featcache.methods.distill.teachers import read_teachers
from featcache.methods.finetune.sampling import train_recipe
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.plan import TrainingPlan, forecast, step_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillPlan(TrainingPlan):
    """Plan of a run; parameters, steps and costs are those of all students together.

    Attributes:
        num_classes: Number of classes of the training videos.
        num_test: Number of test videos by split.
        num_views: Number of views of a test video.
        students: Names of the students.
        teachers: Names of the teachers.
        num_live: Number of teachers that are shown clips; the others cost nothing.
    """

    num_classes: int
    num_test: Mapping[str, int]
    num_views: int
    students: tuple[str, ...]
    teachers: tuple[str, ...]
    num_live: int

    def summary(self) -> Summary:
        """The plan in words."""
        tests = ", ".join(f"{num} in {split}" for split, num in self.num_test.items())
        taught = f"{', '.join(self.teachers)}; {self.num_live} of {len(self.teachers)} are shown clips"
        facts = {
            "train": f"{self.num_train} videos of {self.num_classes} classes",
            "test": f"{tests}, {self.num_views} views",
            "students": ", ".join(self.students),
            "teachers": taught if self.teachers else "none, labels alone",
        }
        return self.summary_of(facts)


def plan_distill(settings: DistillSettings, *, on_stage: OnStage = ignore) -> DistillPlan:
    """Scan the videos, decode some, read the teachers, build the students, and return the plan of a run.

    Nothing is written or downloaded; weights of students that are not at hand are named, and random ones take their
    place.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stages ``scan`` and ``decode``.

    Raises:
        FeatcacheError: Those errors of :func:`featcache.methods.distill.run.distill` that occur before training, but
            for missing weights of students.
    """
    training = settings.training
    tunings, missing = {}, []
    for student in settings.students:
        check_name(student.backbone)
        weights, lacking = weights_at_hand(student.backbone, student.weights)
        tunings[student.folder] = settings.as_finetuning(student.model_copy(update={"weights": weights}))
        missing += lacking
    data = read_data(settings, on_stage=on_stage)
    students = build_students(tunings, num_classes=data.num_taught, seed=training.seeds[0], device=torch.device("cpu"))
    num_frames = students[0].num_frames
    teachers = None
    if settings.kd_weight:
        teachers = read_teachers(
            settings.teachers,
            classes=data.classes[: data.num_taught],
            videos=data.train.files.videos,
            num_frames=num_frames,
            prompt=settings.prompt,
            device=torch.device("cpu"),
        )
    sizes = sizes_of(students, teachers)
    recipe = train_recipe(next(iter(tunings.values())), num_frames=num_frames)
    source = RecipeSource(recipe, crop=sizes[0], seed=training.seeds[0], beside=sizes[1:])
    module = Students(students)
    num_batches = len(data.train.labels) // training.batch_size
    live = [] if teachers is None else [each.macs for each in teachers.each if each.crop is not None]
    size = students[0].recipe.input_size
    return DistillPlan(
        num_train=len(data.train.labels),
        num_left_out=data.num_left_out,
        num_classes=data.num_taught,
        num_test={split: len(videos.labels) for split, videos in data.tests.items()},
        num_views=settings.test.num_clips * settings.test.num_crops,
        students=tuple(tunings),
        teachers=settings.teachers if settings.kd_weight else (),
        num_live=len(live),
        clip=(num_frames, size, size),
        num_parameters=sum(count_parameters(student.network) for student in students),
        num_trained=count_trained(module),
        num_steps=training.epochs * training.steps_an_epoch(num_batches),
        num_seeds=len(training.seeds),
        forecast=forecast(
            training,
            num_videos=len(data.train.labels),
            cost=step_cost(
                module,
                training,
                kept=module,
                whole=module,
                trained_macs=sum(student.macs for student in students),
                frozen_macs=sum(live),
            ),
            decoding=measure_source(source, data.train.files, on_stage=on_stage),
            out=settings.out,
            missing=missing,
        ),
    )
