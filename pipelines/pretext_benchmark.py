"""Pretext tasks under one protocol, from videos to one table: trained, fine-tuned, probed and searched.

Every task trains every network; beside them stand each network as it was before training, fine-tuned (scratch) and
probed (untrained), and trained with labels (supervised). Run it as ``featcache run
configs/pretext_benchmark/smoke.yaml``, on videos of one's own as ``featcache run
configs/pretext_benchmark/folder.yaml --set source=videos/``.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

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
)
from featcache.commands.probe import ProbeTarget
from featcache.commands.scan import ScanSettings, scan
from featcache.commands.sweeps import slug
from featcache.data.motion import MotionSettings
from featcache.data.selection import Selection
from featcache.errors import ConfigError
from featcache.evaluation.settings import KnnSettings, LinearSettings, RetrievalSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.loaders.looks import LookSettings
from featcache.loaders.views import ClipShape
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
from featcache.report.paired import paired_cells
from featcache.report.tables import Cell, Table
from featcache.stages import OnStage, ignore, renamed
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

SCRATCH, UNTRAINED, SUPERVISED = "scratch", "untrained", "supervised"
FINETUNED = "fine-tuned"
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

    def model_post_init(self, context: object) -> None:
        """Check what no single field can, and that every task takes such clips."""
        for what, names in (("networks", self.networks), ("tasks", tuple(task.name for task in self.tasks))):
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ConfigError(f"{what} names {twice!r} twice; give each once, and a variant another out")
        least = {task.name: task.min_frames(self.shape) for task in self.tasks}
        longest = max(least, key=least.__getitem__)
        if self.source is None and self.motion.num_frames < least[longest]:
            raise ConfigError(
                f"motion.num_frames is {self.motion.num_frames}, and {longest} needs videos of {least[longest]} frames "
                f"or more; set motion.num_frames={least[longest]}"
            )

    @property
    def shape(self) -> ClipShape:
        """Shape of the clips of every step."""
        return ClipShape(self.num_frames, self.input_size, "bilinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row of the table.

    Attributes:
        network: Registry name of the backbone.
        kind: Name of the task, or ``scratch``, ``untrained`` or ``supervised``.
        weights: Weights of its networks, one per seed, by the names of their features; empty: none is probed.
        runs: Folders of its runs by column.
        trained: Results of its trainings by name, as JSON.
        note: What else is known: the size of the network, and how many videos were too short.
    """

    network: str
    kind: str
    weights: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


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
    steps = _scanned(begin(settings, on_stage=on_stage), settings)
    trained = [arm for network in settings.networks for arm in _trained(settings, steps, network)]
    extraction = steps.extract(
        [
            decide(
                settings.feature,
                {"backbone": arm.network, "weights": path, "name": name, "input_size": settings.input_size},
            )
            for arm in trained
            for name, path in arm.weights.items()
        ]
    )
    steps.remove_videos()
    asked = {
        f"{column}, {name}": Asked(probe, getattr(settings, probe), name)
        for arm in trained
        for name in arm.weights
        for column, probe in PROBES.items()
    }
    probed = steps.probe(settings.probes, settings.label, asked)
    table = tabulated(settings, [_with_probes(arm, probed) for arm in trained])
    return steps.finish(
        {
            "trained": {_row(arm): arm.trained for arm in trained if arm.trained},
            "extract": extraction.to_dict(),
            "probes": probed,
        },
        table=table,
        facts={"in braces": table.note},
    )


def _scanned(steps: PipelineRun, settings: PretextBenchmarkSettings) -> PipelineRun:
    """The pipeline with its videos scanned, so that no step opens them again to know how long they are."""
    listing = ScanSettings.model_validate({**steps.videos, "out": steps.folder("videos.parquet")})
    scan(listing, on_stage=steps.on_stage)
    return dataclasses.replace(steps, videos={"source": listing.out, "selection": Selection()})


def _trained(settings: PretextBenchmarkSettings, steps: PipelineRun, network: str) -> Iterator[Arm]:
    """Train a network in all ways; yields its rows."""
    from featcache.methods.pretext.run import pretrain

    name, seeds = slug(network), settings.pretraining.training.seeds
    scratch = _finetuned(settings, steps, network, SCRATCH, weights="random", seeds=seeds)
    yield Arm(
        network=network,
        kind=SCRATCH,
        runs={FINETUNED: [scratch["folder"]]},
        trained={FINETUNED: [scratch]},
        note=f"{scratch['num_parameters']:,} parameters",
    )
    yield Arm(network=network, kind=UNTRAINED, weights={f"{name}-{UNTRAINED}": "random"})
    labelled = {f"{name}-{SUPERVISED}-{seed}": path for seed, path in scratch["weights"].items()}
    yield Arm(network=network, kind=SUPERVISED, weights=labelled)
    for task in settings.tasks:
        own = {
            "task": task,
            "backbone": network,
            "weights": "random",
            "num_frames": settings.num_frames,
            "input_size": settings.input_size,
            "out": steps.folder(f"pretrained/{name}/{task.name}"),
        }
        training = decide(settings.pretraining, {**steps.videos, **own})
        pretrained = pretrain(training, on_stage=renamed(steps.on_stage, f"{network}, {task.name}"))
        tuned = [
            _finetuned(settings, steps, network, f"{task.name}-{seed}", weights=path, seeds=(seed,))
            for seed, path in pretrained.weights.items()
        ]
        yield Arm(
            network=network,
            kind=task.name,
            weights={f"{name}-{task.name}-{seed}": path for seed, path in pretrained.weights.items()},
            runs={FINETUNED: [result["folder"] for result in tuned]},
            trained={"pretrained": pretrained.to_dict(), FINETUNED: tuned},
            note=_too_short(pretrained.num_short, pretrained.num_videos),
        )


def _too_short(num_short: int, num_videos: int) -> str:
    """How many training videos a task has left out; nothing if none."""
    return f"{num_short} of {num_short + num_videos} videos too short" if num_short else ""


def _finetuned(
    settings: PretextBenchmarkSettings,
    steps: PipelineRun,
    network: str,
    name: str,
    *,
    weights: str,
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    """Fine-tune a network from some weights, in a folder of that name; the result as JSON."""
    from featcache.methods.finetune.run import finetune

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
    return finetune(
        decide(settings.finetuning, values),
        intervals=settings.probes.intervals,
        on_stage=renamed(steps.on_stage, f"{network}, {name}, fine-tuning"),
    ).to_dict()


def _with_probes(arm: Arm, probed: Mapping[str, Mapping[str, Any]]) -> Arm:
    """A row with the folders of its probes."""
    columns = PROBES if arm.weights else ()
    runs = {column: [str(probed[f"{column}, {name}"]["out"]) for name in arm.weights] for column in columns}
    return dataclasses.replace(arm, runs={**arm.runs, **runs})


def _row(arm: Arm) -> str:
    """The name of a row."""
    return f"{arm.network}, {arm.kind}"


def tabulated(settings: PretextBenchmarkSettings, arms: Sequence[Arm]) -> Table:
    """The table: each number with what it gains over the same network before training.

    There is one column per way of testing, and per split if there are several.
    """
    known = {(arm.network, arm.kind): arm for arm in arms}
    found: dict[str, dict[tuple[str, str], Cell]] = {}
    for arm in arms:
        cells = found.setdefault(_row(arm), {})
        for column, runs in arm.runs.items():
            base = known[arm.network, SCRATCH if column == FINETUNED else UNTRAINED]
            baseline = () if base is arm else base.runs[column]
            for split, cell in paired_cells(runs, baseline, intervals=settings.probes.intervals).items():
                cells[column, split] = cell
    splits = tuple(dict.fromkeys(split for cells in found.values() for _, split in cells))
    names = {
        (column, split): column if len(splits) == 1 else f"{column}, {split}"
        for column in (FINETUNED, *PROBES)
        for split in splits
    }
    rows = tuple(
        (_row(arm), None, arm.note, {name: found[_row(arm)].get(at, Cell(value=None)) for at, name in names.items()})
        for arm in arms
    )
    return Table(
        title=f"Pretext tasks, {settings.label}",
        columns=tuple(names.values()),
        rows=rows,
        against=f"{SCRATCH} or {UNTRAINED}",
        note=f"gain over {SCRATCH} (fine-tuned) or {UNTRAINED} (others) of the same network, video by video",
    )
