"""Pretext tasks under one protocol, from videos to one table: trained, fine-tuned, probed and searched.

Every task trains every network; beside them stand each network as it was before training, fine-tuned (scratch) and
probed (untrained), and trained with labels (supervised). If asked, tasks are trained on other videos too, fine-tuned
networks are scored under noise, their layers are drawn, and they teach students. Run it as ``featcache run
configs/pretext_benchmark/smoke.yaml``, on videos of one's own as ``featcache run
configs/pretext_benchmark/folder.yaml --set source=videos/``.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from featcache.commands.pipeline import (
    DECIDED,
    PROBED,
    VIDEOS,
    Asked,
    PipelineResult,
    PipelineRun,
    ShippedSettings,
    begin,
    decide,
    extraction_with,
    keys,
    optional,
)
from featcache.commands.probe import ProbeTarget
from featcache.commands.sources import OtherSource, check_lengths, other_videos, remove_other, scanned, too_short
from featcache.commands.sweeps import slug
from featcache.commands.tuned import (
    CKA,
    DISTILLATION,
    FINETUNED,
    LOST,
    NOISE,
    TUNED,
    check_students,
    finetuned,
    numbers_of,
    size_of,
    student_arms,
    with_tuned,
)
from featcache.data.motion import MotionSettings
from featcache.errors import ConfigError
from featcache.evaluation.cka_settings import CkaSettings
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.evaluation.settings import KnnSettings, LinearSettings, RetrievalSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.loaders.looks import LookSettings
from featcache.loaders.views import ClipShape
from featcache.methods.distill.settings import DistillSettings
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.methods.pretext.bench import BENCH_LOOK, CONTRAST_LOOK
from featcache.methods.pretext.cvrl import Cvrl
from featcache.methods.pretext.prp import Prp
from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.rspnet import Rspnet
from featcache.methods.pretext.settings import AnyTask, PretextSettings
from featcache.methods.pretext.tdl import Tdl
from featcache.methods.pretext.vcop import Vcop
from featcache.methods.pretext.videomae import VideoMae
from featcache.report.arms import Arm, arms_table
from featcache.report.tables import Cell, Table
from featcache.stages import OnStage, ignore, renamed
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

SCRATCH, UNTRAINED, SUPERVISED = "scratch", "untrained", "supervised"
PROBES = {"linear": "linear", "kNN": "knn", "R@1": "retrieval"}
"""Columns of the table, and the probe that each shows."""


def _quick(look: LookSettings) -> LookSettings:
    """A look that never mirrors, since direction is asked for, and leaves out the slower changes of colour."""
    assert look.color is not None, "looks of the benchmark change colours"
    color = dataclasses.replace(look.color, saturation=0.0, hue=0.0)
    return look.model_copy(update={"flip_probability": 0.0, "color": color})


_LOOK, _CONTRAST = _quick(BENCH_LOOK), _quick(CONTRAST_LOOK)


class PretextBenchmarkSettings(ShippedSettings):
    """Settings of ``pipelines/pretext_benchmark.py``; the defaults make and use a motion set, and take minutes.

    The pipeline decides the videos and the folder of each step, the task and the network that are trained, the shape of
    the clips that all of them read (``num_frames``, ``input_size``), and what is predicted (``label``).
    """

    decided: ClassVar[tuple[str, ...]] = (
        *keys("pretraining", *VIDEOS, "task", "backbone", "weights", "num_frames", "input_size", "out"),
        *keys("finetuning", *VIDEOS, "backbone", "weights", "input_size", "label", "out"),
        *keys("finetuning", "clips.num_frames", "training.seeds"),
        *keys("feature", "backbone", "weights", "name", "input_size"),
        "extraction.sampling.num_frames",
        *keys("probes", *PROBED),
        *TUNED,
    )

    command: Literal["pretext_benchmark"] = "pretext_benchmark"
    """The command this file repeats."""
    out: str = "pretext-benchmark"
    """Folder for the runs, the store and the table."""
    motion: MotionSettings = MotionSettings(
        num_frames=40,
        size=48,
        train_per_picture_motion=1,
        test_unseen_per_picture_motion=0,
        num_unseen_pictures=12,
        window=(0.15, 0.25),
        gop=1,
    )
    """The clips to make if no source is given: fast, long enough for all tasks, and without key frames that tell the
    playback rate."""
    networks: tuple[str, ...] = Field(default=("squeezenet3d-tiny", "r21d-tiny"), min_length=1)
    """Backbones to train from random weights, each with every task."""
    tasks: tuple[AnyTask, ...] = Field(
        default=(
            RotNet(look=_LOOK),
            Vcop(gap=4, look=_LOOK),
            Prp(complexity="c2", look=_LOOK),
            Cvrl(hidden=256, look=_CONTRAST, other_look=_CONTRAST),
            Tdl(stride=3, queue=128, momentum=0.99, look=_LOOK),
            Rspnet(queue=128, momentum=0.99, look=_LOOK),
            VideoMae(look=_LOOK),
        ),
        min_length=1,
    )
    """Tasks, each by its name and its own settings."""
    num_frames: int = Field(default=8, ge=1)
    """Number of frames per clip, in every step."""
    input_size: int = Field(default=32, ge=1)
    """Side of the clips in pixels, in every step."""
    label: str = "picture"
    """Label column to predict. Motion, the other one of the motion set, takes longer than these settings train."""
    pretraining: PretextSettings = PretextSettings(
        source=DECIDED,
        task=RotNet(),
        backbone=DECIDED,
        workers=0,
        training=TrainingSettings(
            epochs=4,
            batch_size=8,
            optimiser=OptimiserSettings(lr=2e-3, weight_decay=0.01),
            schedule=ScheduleSettings(warmup_fraction=0.1),
            threads=1,
            tensorboard=False,
        ),
    )
    """Pre-training with each task. All seeds begin at the same random network."""
    finetuning: FinetuneSettings = FinetuneSettings(
        source=DECIDED,
        backbone=DECIDED,
        workers=0,
        head_dropout=0.0,
        clips=FinetuneClipSettings(frame_stride=2, side_range=(0.7, 1.0), flip_probability=0.0),
        test=FinetuneTestSettings(num_crops=1),
        training=TrainingSettings(
            epochs=6,
            batch_size=8,
            optimiser=OptimiserSettings(lr=2e-3, weight_decay=0.01),
            schedule=ScheduleSettings(warmup_fraction=0.1),
            threads=1,
            tensorboard=False,
        ),
    )
    """Fine-tuning, from each trained network and from the random one, with the seeds of the pre-training."""
    feature: FeatureSettings = FeatureSettings(backbone=DECIDED, precision="float32")
    """The feature to store of each network: the average of its last map, which all tasks train."""
    extraction: ExtractSettings = extraction_with(
        SamplingSettings(num_clips=1, frame_stride=2, short_videos="clamp", crop_fraction=1.0),
        runtime=RuntimeSettings(threads=1),
    )
    """The extraction, one decoding pass for all networks."""
    probes: ProbeTarget = ProbeTarget(command=DECIDED, store=DECIDED)
    """Settings of all probes."""
    linear: LinearSettings = LinearSettings(
        lrs=(1e-3, 1e-2, 0.1), optimizers=("adamw",), batch_norms=(True,), seeds=(0,)
    )
    """The linear probe."""
    knn: KnnSettings = KnnSettings(ks=(5, 1))
    """The nearest neighbours."""
    retrieval: RetrievalSettings = RetrievalSettings(ks=(1, 5, 10))
    """The search."""
    other_sources: Mapping[str, OtherSource] = {}
    """Other videos to pre-train on, by the name that rows give them; fine-tuning and tests are those of ``source``."""
    noise: Annotated[NoiseEvaluationSettings | None, optional(NOISE)] = None
    """Every fine-tuned network under noise, from one decoding pass; null: none."""
    cka: Annotated[CkaSettings | None, optional(CKA)] = None
    """Maps of how alike the layers of each fine-tuned network are, of the first seed; those of the random network
    stand beside ``scratch``; null: none."""
    distillation: Annotated[DistillSettings | None, optional(DISTILLATION)] = None
    """Students of each network, taught by its fine-tuned networks of ``teachers``, beside students of permuted
    teachers. They are trained as ``finetuning`` trains, so that without teachers they are ``scratch``; null: none."""
    teachers: tuple[str, ...] = ("rotnet", "vcop")
    """Tasks whose fine-tuned networks, of the first seed, teach."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can, and that every task takes such clips."""
        for what, names in (("networks", self.networks), ("tasks", tuple(task.name for task in self.tasks))):
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ConfigError(f"{what} names {twice!r} twice; give each once, and a variant another out")
        named = {f"other_sources.{name}.tasks": other.tasks for name, other in self.other_sources.items()}
        if self.distillation is not None:
            check_students(self.finetuning)
            named["teachers"] = self.teachers
        for what, names in named.items():
            if lacking := set(names) - {task.name for task in self.tasks}:
                raise ConfigError(f"{what} names {min(lacking)!r}, which is none of tasks; add it there")
        least = {task.name: task.min_frames(self.shape) for task in self.tasks}
        check_lengths("motion", self.source, self.motion, least)
        for name, other in self.other_sources.items():
            mine = {task: least[task] for task in other.tasks}
            check_lengths(f"other_sources.{name}.motion", other.source, other.motion, mine)

    @property
    def shape(self) -> ClipShape:
        """Shape of the clips of every step."""
        return ClipShape(self.num_frames, self.input_size, "bilinear")


def run(settings: PretextBenchmarkSettings, *, on_stage: OnStage = ignore) -> PipelineResult:
    """Run the whole benchmark; in an existing folder, unfinished steps are resumed and finished ones kept.

    Args:
        settings: Settings of the benchmark.
        on_stage: Called with each stage.

    Returns:
        The results of all steps, which are in ``result.json`` too.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; finished steps are kept.
    """
    steps = begin(settings, on_stage=on_stage)
    steps = dataclasses.replace(steps, videos=scanned(steps, steps.videos, name="videos"))
    others = {name: other_videos(steps, other, name=name) for name, other in settings.other_sources.items()}
    trained = [arm for network in settings.networks for arm in _trained(settings, steps, network, others)]
    for name, other in settings.other_sources.items():
        remove_other(steps, other, name=name)
    trained, more = with_tuned(
        steps,
        trained,
        untrained_beside=SCRATCH,
        finetuning=settings.finetuning,
        noise=settings.noise,
        cka=settings.cka,
        intervals=settings.probes.intervals,
    )
    features = [
        {"backbone": arm.network, "weights": path, "name": name, "input_size": settings.input_size}
        for arm in trained
        for name, path in arm.weights.items()
    ]
    extraction = steps.extract([decide(settings.feature, values) for values in features])
    steps.remove_videos()
    asked = {
        f"{column}, {name}": Asked(probe, getattr(settings, probe), name)
        for arm in trained
        for name in arm.weights
        for column, probe in PROBES.items()
    }
    probed = steps.probe(settings.probes, settings.label, asked)
    for place, arm in enumerate(trained):
        runs = {c: [str(probed[f"{c}, {name}"]["out"]) for name in arm.weights] for c in PROBES if arm.weights}
        trained[place] = dataclasses.replace(arm, runs={**arm.runs, **runs})
    table = tabulated(settings, trained)
    return steps.finish(
        {
            "trained": {arm.name: arm.trained for arm in trained if arm.trained},
            "extract": extraction.to_dict(),
            "probes": probed,
            **more,
        },
        table=table,
        facts={"in braces": table.note, "arrows": "the interval in braces leaves out 0"},
    )


def _trained(
    settings: PretextBenchmarkSettings, steps: PipelineRun, network: str, others: Mapping[str, Mapping[str, Any]]
) -> Iterator[Arm]:
    """Train a network in all ways; yields its rows."""
    name, seeds = slug(network), settings.pretraining.training.seeds
    size = size_of(steps, network, num_frames=settings.num_frames, input_size=settings.input_size)
    tuning = _tuning(settings, steps, network, SCRATCH, weights="random", seeds=seeds)
    scratch = finetuned(steps, tuning, intervals=settings.probes.intervals)
    yield Arm(
        network=network,
        kind=SCRATCH,
        runs={FINETUNED: [scratch["folder"]]},
        trained={FINETUNED: [scratch]},
        numbers={**numbers_of([(tuning, scratch)]), **size},
        note=f"{scratch['num_parameters']:,} parameters",
    )
    yield Arm(network=network, kind=UNTRAINED, weights={f"{name}-{UNTRAINED}": "random"})
    labelled = {f"{name}-{SUPERVISED}-{seed}": path for seed, path in scratch["weights"].items()}
    yield Arm(network=network, kind=SUPERVISED, weights=labelled)
    arms = [_pretrained(settings, steps, network, task, task.name, steps.videos, size) for task in settings.tasks]
    yield from arms
    for source, other in settings.other_sources.items():
        for task in settings.tasks:
            if task.name in other.tasks:
                kind = f"{task.name} on {source}"
                yield _pretrained(settings, steps, network, task, kind, others[source], size)
    if settings.distillation is not None:
        teachers = [arm.runs[FINETUNED][0] for kind in settings.teachers for arm in arms if arm.kind == kind]
        yield from student_arms(
            steps,
            settings.distillation,
            tuning,
            teachers=teachers,
            numbers=size,
            intervals=settings.probes.intervals,
        )


def _pretrained(
    settings: PretextBenchmarkSettings,
    steps: PipelineRun,
    network: str,
    task: AnyTask,
    kind: str,
    videos: Mapping[str, Any],
    size: Mapping[str, Cell],
) -> Arm:
    """Train a network with a task on some videos, and fine-tune it; its row."""
    from featcache.methods.pretext.run import pretrain

    name, short = slug(network), slug(kind)
    own = {
        "task": task,
        "backbone": network,
        "weights": "random",
        "num_frames": settings.num_frames,
        "input_size": settings.input_size,
        "out": steps.folder(f"pretrained/{name}/{short}"),
    }
    training = decide(settings.pretraining, {**videos, **own})
    pretrained = pretrain(training, on_stage=renamed(steps.on_stage, f"{network}, {kind}"))
    tunings = [
        _tuning(settings, steps, network, f"{short}-{seed}", weights=path, seeds=(seed,))
        for seed, path in pretrained.weights.items()
    ]
    tuned = [finetuned(steps, tuning, intervals=settings.probes.intervals) for tuning in tunings]
    result = pretrained.to_dict()
    return Arm(
        network=network,
        kind=kind,
        weights={f"{name}-{short}-{seed}": path for seed, path in pretrained.weights.items()},
        runs={FINETUNED: [each["folder"] for each in tuned]},
        trained={"pretrained": result, FINETUNED: tuned},
        numbers={**numbers_of(list(zip(tunings, tuned, strict=True)), before=[(training, result)]), **size},
        note=too_short(pretrained.num_short, pretrained.num_videos),
    )


def _tuning(
    settings: PretextBenchmarkSettings,
    steps: PipelineRun,
    network: str,
    name: str,
    *,
    weights: str,
    seeds: tuple[int, ...],
) -> FinetuneSettings:
    """Settings of the fine-tuning of a network from some weights, in a folder of that name."""
    values = {
        **steps.videos,
        "backbone": network,
        "weights": weights,
        "label": settings.label,
        "clips.num_frames": settings.num_frames,
        "input_size": settings.input_size,
        "training.seeds": seeds,
        "out": steps.folder(f"finetuned/{slug(network)}/{name}"),
    }
    return decide(settings.finetuning, values)


def tabulated(settings: PretextBenchmarkSettings, arms: Sequence[Arm]) -> Table:
    """The table: each number with what it gains over the same network before training."""
    note = f"gain over {SCRATCH} (fine-tuned) or {UNTRAINED} (others) of the same network, video by video"
    if settings.distillation is not None:
        note += f"; {SCRATCH} is the student of labels alone, to the bit"
    if settings.noise is not None:
        note += f"; {LOST}: share of the fine-tuned accuracy, mean over kinds and severities"
    return arms_table(
        arms,
        title=f"Pretext tasks, {settings.label}",
        bases={FINETUNED: SCRATCH} | dict.fromkeys(PROBES, UNTRAINED),
        intervals=settings.probes.intervals,
        against=f"{SCRATCH} or {UNTRAINED}",
        note=note,
    )
