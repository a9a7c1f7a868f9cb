"""What pipelines do with fine-tuned networks: score them under noise, draw their layers, and teach with them.

Each is an optional section with the settings of the command that it repeats, of which a pipeline decides :data:`TUNED`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.commands.cost import BackboneCostSettings, count_backbone
from featcache.commands.noise import evaluate_noise
from featcache.commands.pipeline import DECIDED, VIDEOS, PipelineRun, decide, keys
from featcache.commands.sweeps import slug
from featcache.config import read_json, to_yaml
from featcache.errors import ConfigError
from featcache.evaluation.cka_settings import CkaSettings, ComparedNetwork
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.methods.distill.settings import DistillSettings, StudentSettings
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.pretext.settings import PretextSettings
from featcache.metrics.settings import IntervalSettings
from featcache.report.arms import Arm, split_column
from featcache.report.paired import drop_cells, paired_cells
from featcache.report.tables import PERCENT, Cell
from featcache.stages import renamed

FINETUNED = "fine-tuned"
LOST = "lost to noise"
AGAINST_PERMUTED = "against permuted teachers"
STUDENT, PERMUTED = "student", "student, teachers permuted"

NOISE = NoiseEvaluationSettings(runs=(DECIDED,))
CKA = CkaSettings(source=DECIDED, networks=(ComparedNetwork(backbone=DECIDED),))
DISTILLATION = DistillSettings(source=DECIDED, students=(StudentSettings(backbone=DECIDED),), teachers=(DECIDED,))
"""The sections, complete but for what is decided."""

_SHARED = tuple(
    name
    for name in FinetuneSettings.model_fields
    if name in DistillSettings.model_fields and name not in (*VIDEOS, "command", "out")
)
"""Settings of students that are those of the fine-tuning."""
_OWN = ("backbone", "weights", "input_size")
_NOT_OF_STUDENTS = ("layer", "output", "mean", "std", "frozen")

TUNED = (
    *keys("noise", "runs", "intervals", "out"),
    *keys("cka", *VIDEOS, "networks", "frame_stride", "out"),
    *keys("distillation", *VIDEOS, *_SHARED, "students", "teachers", "permute_teachers", "out"),
)
"""What a pipeline decides of the sections ``noise``, ``cka`` and ``distillation``."""


def check_students(finetuning: FinetuneSettings) -> None:
    """Check that students can be trained as a fine-tuning trains, which is then their control arm without teachers.

    Raises:
        ConfigError: A setting is not at its default, and students do not have it.
    """
    for name in _NOT_OF_STUDENTS:
        if getattr(finetuning, name) != FinetuneSettings.model_fields[name].default:
            raise ConfigError(
                f"finetuning.{name} is given, which students of distillation do not have, so that they would be "
                "compared with another training; leave it out, or distillation"
            )


def finetuned(steps: PipelineRun, tuning: FinetuneSettings, *, intervals: IntervalSettings) -> dict[str, Any]:
    """Fine-tune a network; the result as JSON.

    Args:
        steps: The pipeline.
        tuning: The complete settings.
        intervals: Settings of the intervals.
    """
    from featcache.methods.finetune.run import finetune

    stage = f"{tuning.backbone}, {Path(str(tuning.out)).name}, fine-tuning"
    return finetune(tuning, intervals=intervals, on_stage=renamed(steps.on_stage, stage)).to_dict()


def under_noise(
    steps: PipelineRun,
    section: NoiseEvaluationSettings,
    rows: Mapping[str, Sequence[str]],
    *,
    intervals: IntervalSettings,
) -> tuple[dict[str, Any], dict[str, dict[str, Cell]]]:
    """Score fine-tuned runs under noise, all in one decoding pass where their test clips are the same.

    Args:
        steps: The pipeline.
        section: Its section of the noise.
        rows: Folders of the runs of each row, which count as its seeds.
        intervals: Settings of the intervals.

    Returns:
        The result as JSON, and of each row the share of its accuracy that is lost, by column.
    """
    from featcache.evaluation.noise import CLEAN, cell_name
    from featcache.training.identity import digest

    runs = tuple(run for folders in rows.values() for run in folders)
    out = steps.folder(f"noise/{digest(runs)[:12]}")
    settings = decide(section, {"runs": runs, "intervals": intervals, "out": out})
    result = evaluate_noise(settings, on_stage=steps.on_stage)
    names = {each.run: str(Path(result.folder) / name) for name, each in result.runs.items()}
    noises = [cell_name(noise) for noise in settings.recipes]
    cells = {}
    for row, folders in rows.items():
        scored = [names[str(Path(folder))] for folder in folders]
        lost = drop_cells(scored, clean=CLEAN, noises=noises, intervals=intervals)
        cells[row] = {split_column(LOST, split, tuple(lost)): cell for split, cell in lost.items()}
    return result.to_dict(), cells


def layers_alike(
    steps: PipelineRun,
    section: CkaSettings,
    finetuning: FinetuneSettings,
    *,
    backbone: str,
    weights: str,
    untrained: bool,
    name: str,
) -> tuple[dict[str, Any], dict[str, Cell]]:
    """Draw the layers of a network against each other; a map that is there is kept.

    Args:
        steps: The pipeline.
        section: Its section of the maps.
        finetuning: Settings of the fine-tuning, whose distance between frames the clips have.
        backbone: Registry name of the network.
        weights: Its weights.
        untrained: Whether to draw the network with random weights beside it, if the section says so too.
        name: Folder of the map in that of the pipeline.

    Returns:
        The result as JSON, and the measures by column.
    """
    from featcache.report.cka import evaluate_cka

    out = steps.folder(name)
    values = {
        **steps.videos,
        "networks": [{"backbone": backbone, "weights": weights}],
        "untrained": section.untrained and untrained,
        "frame_stride": finetuning.clips.frame_stride,
        "out": out,
    }
    settings = decide(section, values)
    result, config = Path(out) / "result.json", Path(out) / "config.yaml"
    if result.exists() and config.read_text(encoding="utf-8") == to_yaml(settings):
        found = read_json(result, what="result of `featcache evaluate cka`")
    else:
        found = evaluate_cka(settings, on_stage=renamed(steps.on_stage, name)).to_dict()
    (measures,) = found["maps"].values()
    share, block = measures["share_above"], measures["largest"]
    return found, {
        f"pairs above {section.threshold:g}": Cell(value=None if share is None else PERCENT * share),
        "largest block": Cell(value=None if block is None else float(block["num_layers"])),
    }


def with_tuned(
    steps: PipelineRun,
    arms: Sequence[Arm],
    *,
    untrained_beside: str,
    finetuning: FinetuneSettings,
    noise: NoiseEvaluationSettings | None,
    cka: CkaSettings | None,
    intervals: IntervalSettings,
) -> tuple[list[Arm], dict[str, Any]]:
    """Rows with what was asked of their fine-tuned networks.

    Args:
        steps: The pipeline.
        arms: All rows.
        untrained_beside: Kind of the row beside whose map that of the random network is drawn.
        finetuning: Settings of the fine-tuning.
        noise: The section of the noise; ``None``: none.
        cka: The section of the maps, which are those of the first seed; ``None``: none.
        intervals: Settings of the intervals.

    Returns:
        The rows, and the results as JSON.
    """
    rows = {arm.name: arm for arm in arms if FINETUNED in arm.runs}
    numbers: dict[str, dict[str, Cell]] = {name: {} for name in rows}
    found: dict[str, Any] = {}
    if noise is not None:
        runs = {name: arm.runs[FINETUNED] for name, arm in rows.items()}
        found["noise"], lost = under_noise(steps, noise, runs, intervals=intervals)
        for name, cells in lost.items():
            numbers[name] |= cells
    if cka is not None:
        found["cka"] = {}
        for name, arm in rows.items():
            found["cka"][name], cells = layers_alike(
                steps,
                cka,
                finetuning,
                backbone=arm.network,
                weights=next(iter(arm.trained[FINETUNED][0]["weights"].values())),
                untrained=arm.kind == untrained_beside,
                name=f"cka/{slug(arm.network)}/{slug(arm.kind)}",
            )
            numbers[name] |= cells
    return [replace(arm, numbers={**arm.numbers, **numbers.get(arm.name, {})}) for arm in arms], found


def student_arms(
    steps: PipelineRun,
    section: DistillSettings,
    finetuning: FinetuneSettings,
    *,
    teachers: Sequence[str],
    numbers: Mapping[str, Cell],
    intervals: IntervalSettings,
) -> list[Arm]:
    """Rows of a student of a network's teachers, and of one for whom they are permuted.

    Students are trained as the fine-tuning trains: without teachers they would be what it gives, to the bit, so that
    the fine-tuned network is the control arm of labels alone.

    Args:
        steps: The pipeline.
        section: Its section of distillation.
        finetuning: The fine-tuning without teachers, complete.
        teachers: Folders of fine-tuned runs.
        numbers: What else is known of the network.
        intervals: Settings of the intervals.
    """
    made = {
        kind: _student(steps, section, finetuning, teachers=teachers, is_permuted=kind == PERMUTED, name=slug(kind))
        for kind in (PERMUTED, STUDENT)
    }
    cells = paired_cells([made[STUDENT]["folder"]], [made[PERMUTED]["folder"]], intervals=intervals)
    against = {split_column(AGAINST_PERMUTED, split, tuple(cells)): cell for split, cell in cells.items()}
    return [
        Arm(
            network=finetuning.backbone,
            kind=kind,
            runs={FINETUNED: [made[kind]["folder"]]},
            trained={FINETUNED: [made[kind]]},
            numbers={**numbers_of([(finetuning, made[kind])]), **numbers, **(against if kind == STUDENT else {})},
        )
        for kind in (STUDENT, PERMUTED)
    ]


def size_of(steps: PipelineRun, backbone: str, *, num_frames: int, input_size: int) -> dict[str, Cell]:
    """Parameters of a network and its operations for one clip, by column."""
    out = steps.folder(f"cost/{slug(backbone)}")
    counted = count_backbone(
        BackboneCostSettings(backbone=backbone, num_frames=num_frames, input_size=input_size, out=out)
    )
    names = {"million parameters": "megaparameters", "GFLOPs per clip": "gigaflops"}
    return {column: Cell(value=counted.cost[name]) for column, name in names.items()}


def numbers_of(
    tuned: Sequence[tuple[FinetuneSettings, Mapping[str, Any]]],
    *,
    before: Sequence[tuple[PretextSettings, Mapping[str, Any]]] = (),
) -> dict[str, Cell]:
    """Seconds of training per seed, at the speed of the last epochs, and the share of test videos scored, by column.

    Args:
        tuned: Fine-tunings, of one seed or several, and their results as JSON.
        before: Pre-trainings with the same seeds, and their results.
    """
    trainings = [(each.training, result) for each, result in before]
    trainings += [(each.training, result) for each, result in tuned]
    seconds = sum(
        line["step"] * training.batch_size / line["items_per_second"]
        for training, result in trainings
        for line in result["seeds"].values()
    )
    num_seeds = sum(len(result["seeds"]) for _, result in tuned)
    splits = [split for _, result in tuned for split in result["splits"].values()]
    scored = sum(split["num_videos"] for split in splits) / sum(split["coverage"]["total"] for split in splits)
    return {"training s": Cell(value=seconds / num_seeds), "scored": Cell(value=PERCENT * scored)}


def _student(
    steps: PipelineRun,
    section: DistillSettings,
    finetuning: FinetuneSettings,
    *,
    teachers: Sequence[str],
    is_permuted: bool,
    name: str,
) -> dict[str, Any]:
    """Train a student as the fine-tuning trains, and with teachers; its result as JSON."""
    from featcache.methods.distill.run import distill

    out = f"distilled/{slug(finetuning.backbone)}/{name}"
    values = {
        **{shared: getattr(finetuning, shared) for shared in _SHARED},
        **steps.videos,
        "students": [{"name": name, **{own: getattr(finetuning, own) for own in _OWN}}],
        "teachers": tuple(teachers),
        "permute_teachers": is_permuted,
        "out": steps.folder(out),
    }
    result = distill(decide(section, values), on_stage=renamed(steps.on_stage, out))
    (made,) = result.students.values()
    return made.to_dict()
