"""The plan of SVT's pre-training: what a run would take on GPUs, and what is missing; nothing is written."""

from dataclasses import dataclass

import torch

from featcache.errors import WeightsError
from featcache.loaders.sample import measure_source, preview
from featcache.methods.svt.module import build_module
from featcache.methods.svt.pairs import NUM_GLOBALS, student_views, teacher_views, view_pairs
from featcache.methods.svt.run import check_weights
from featcache.methods.svt.settings import SvtInitSettings, SvtSettings
from featcache.methods.svt.views import SvtViewSource, same_shapes
from featcache.networks.counting import count_macs, count_parameters, count_trained
from featcache.networks.self_distillation import SvtPretraining
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.plan import TrainingPlan, forecast, step_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class SvtPlan(TrainingPlan):
    """Plan of a run.

    Attributes:
        size: Size of the network.
        views: Frames and side of each view, globals first.
    """

    size: str
    views: tuple[tuple[int, int], ...]

    def summary(self) -> Summary:
        """The plan in words."""
        frames = ", ".join(f"{num_frames} x {side}" for num_frames, side in self.views)
        num_train = "unknown" if self.num_train is None else f"{self.num_train:,} videos"
        return self.summary_of({"train": f"{num_train}, size {self.size}", "views": f"{frames} (frames x side)"})


def plan_svt(settings: SvtSettings, *, on_stage: OnStage = ignore) -> SvtPlan:
    """List the videos, decode some of them, count the network, and return the plan of a run; nothing is written.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stages ``sample`` and ``decode``.

    Raises:
        UnknownNameError: There is no such data set, decoder, split or column.
        ConfigError: The videos do not allow the selection.
    """
    training, views = settings.training, settings.views
    found = preview(settings, split=settings.train_split, on_stage=on_stage)
    missing = list(found.missing)
    num_steps = None
    if found.num_train is not None and found.num_train < training.batch_size:
        missing.append(
            f"enough videos: {found.num_train} make no batch of {training.batch_size}; give more, or set "
            f"training.batch_size={max(1, found.num_train)} or less"
        )
    elif found.num_train is not None:
        num_steps = training.epochs * training.steps_an_epoch(found.num_train // training.batch_size)
    decoding = None
    if found.sample is not None:
        source = SvtViewSource(views, seed=training.seeds[0])
        decoding = measure_source(source, found.sample, failures=found.failures, on_stage=on_stage)
    module, lack = _module(settings)
    trained_macs, frozen_macs = macs_per_video(module.to("meta"), settings)
    return SvtPlan(
        size=settings.size,
        views=tuple(zip(views.num_frames, views.sizes, strict=True)),
        num_train=found.num_train,
        num_left_out=found.num_left_out,
        clip=(views.num_frames[0], views.sizes[0], views.sizes[0]),
        num_parameters=count_parameters(module.student.backbone),
        num_trained=count_trained(module),
        num_steps=num_steps,
        num_seeds=len(training.seeds),
        forecast=forecast(
            training,
            num_videos=found.num_train,
            cost=step_cost(
                module,
                training,
                kept=module.teacher.backbone,
                trained_macs=trained_macs,
                frozen_macs=frozen_macs,
                recomputes=settings.recomputes_blocks,
            ),
            decoding=decoding,
            out=settings.out,
            missing=[*missing, *lack],
        ),
    )


def _module(settings: SvtSettings) -> tuple[SvtPretraining, list[str]]:
    """Student and teacher, without values where the initial weights are not at hand, and what is wrong with those."""
    seed = settings.training.seeds[0]
    lack: list[str] = []
    if settings.init.weights is not None:
        try:
            check_weights(settings)
            return build_module(settings, seed=seed), lack
        except WeightsError as error:
            lack.append(str(error))
    random = SvtInitSettings(std=settings.init.std, time_std=settings.init.time_std)
    with torch.device("meta"):
        return build_module(settings.model_copy(update={"init": random}), seed=seed), lack


def macs_per_video(module: SvtPretraining, settings: SvtSettings) -> tuple[int, int]:
    """Multiply-accumulates of one forward pass of the student and of the teacher, per video.

    Args:
        module: Student and teacher on the ``meta`` device.
        settings: Views and loss.
    """
    frames, sizes = settings.views.num_frames, settings.views.sizes
    network = module.student.backbone.eval()
    head = sum(each.numel() for each in module.student.head.parameters() if each.ndim == 2)  # linear layers of a vector
    of_view = {}
    for group in same_shapes(settings.views):
        first = group[0]
        clip = torch.empty(1, frames[first], 3, sizes[first], sizes[first], device="meta")
        of_view.update(dict.fromkeys(group, head + count_macs(network, clip)))
    teachers = range(NUM_GLOBALS) if settings.loss.single_teacher else [None]
    pairs = [view_pairs(settings.loss.routes, num_locals=len(frames) - NUM_GLOBALS, teacher_view=t) for t in teachers]
    times = 2 if settings.loss.centering == "reversal" else 1  # every view is seen backwards too
    student = sum(of_view[view] for each in pairs for view in student_views(each))
    teacher = sum(of_view[view] for each in pairs for view in teacher_views(each))
    return times * student // len(pairs), times * teacher // len(pairs)
