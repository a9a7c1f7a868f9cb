"""The pipeline ``pretext_benchmark``: every row beside its controls, at sizes that take seconds; whole where slow."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load, settings_class
from featcache.config import parse, to_dict
from featcache.errors import FeatcacheError
from featcache.store.reader import open_store
from featcache.testing.videos import write_video

FOLDER = Path(__file__).parents[2] / "configs" / "pretext_benchmark"
SMOKE, WHOLE = FOLDER / "smoke.yaml", FOLDER / "smoke_whole.yaml"
CONTROLS = ["scratch", "untrained", "supervised"]
COLUMNS = ["fine-tuned", "linear", "kNN", "R@1"]
COSTS = ["training s", "scored", "million parameters", "GFLOPs per clip"]
ASKED = ["lost to noise", "pairs above 0.9", "largest block", "against permuted teachers"]
TINY = [
    "label=motion",
    "networks=[squeezenet3d-tiny]",
    "tasks=[{name: rotnet, stride: 1}, {name: cvrl, stride: 1, hidden: 16}]",
    "motion.num_frames=10",
    "motion.size=32",
    "motion.num_unseen_pictures=21",
    "motion.test_unseen_per_picture_motion=0",
    "linear.epochs=2",
    *(f"{part}.training.epochs=1" for part in ("pretraining", "finetuning")),
    *(f"{part}.training.batch_size=4" for part in ("pretraining", "finetuning")),
    *(f"{part}.device=cpu" for part in ("pretraining.training", "finetuning.training", "extraction.runtime", "probes")),
]
WHOLE_TINY = [
    "other_sources={slow: {tasks: [rotnet], motion: {num_frames: 10, size: 32, num_unseen_pictures: 21, "
    "train_per_picture_motion: 1, test_seen_per_picture_motion: 0, test_unseen_per_picture_motion: 0}}}",
    "noise={noise: [gaussian, shot], severity: [3], workers: 0, device: cpu}",
    "cka={layers: conv, num_clips: 8, batch_size: 8, workers: 0, device: cpu}",
    "teachers=[rotnet, cvrl]",
    "distillation={mode: mean}",
]
"""All that can be asked of fine-tuned networks."""


def run(path, *assignments):
    flags = [word for value in assignments for word in ("--set", value)]
    result = CliRunner().invoke(app, ["run", str(path), "--json", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def rows(result):
    return {
        row["name"]: {column: row[column] for column in result["table"]["columns"]} for row in result["table"]["rows"]
    }


def steps_of(out):
    """When each training, probe, map and noisy cell was last written to, by its files: 4 fine-tunings, 3 pre-trainings,
    2 students, 5 x 3 probes, 6 maps, 6 networks without noise and with two kinds."""
    trainings = [*out.rglob("steps.jsonl"), *out.rglob("checkpoint.json")]
    others = [*out.rglob("probe.json"), *out.rglob("cka.png"), *(out / "noise").rglob("predictions.parquet")]
    assert (len(trainings), len(others)) == (2 * 9, 15 + 6 + 6 * 3)
    files = [*trainings, *others]
    return {path: path.stat().st_mtime_ns for path in files}


def check_table(result, networks, tasks, *, students=(), asked=()):
    """Every network has its controls, every task and its students; each number is compared with the control of its
    column, and what training cost and all that was asked stands beside every number of fine-tuning."""
    found = rows(result)
    assert list(found) == [f"{network}, {kind}" for network in networks for kind in (*CONTROLS, *tasks, *students)]
    assert result["table"]["columns"] == [*COLUMNS, *COSTS, *asked]
    for name, cells in found.items():
        kind = name.partition(", ")[2]
        measured = [column for column in COLUMNS if cells[column]["value"] is not None]
        assert measured == (
            {"untrained": COLUMNS[1:], "supervised": COLUMNS[1:]} | dict.fromkeys(["scratch", *students], COLUMNS[:1])
        ).get(kind, COLUMNS)
        others = [column for column in (*COSTS, *asked[:-1]) if cells[column]["value"] is not None]
        assert others == ([*COSTS, *asked[:-1]] if "fine-tuned" in measured else [])
        gains = [column for column in COLUMNS if cells[column]["gain"] is not None]
        assert gains == ([] if kind in ("scratch", "untrained") else measured)
        for column in gains:
            base = found[f"{name.partition(', ')[0]}, {'scratch' if column == 'fine-tuned' else 'untrained'}"][column]
            gain = cells[column]["gain"]
            assert gain["value"] == pytest.approx(cells[column]["value"] - base["value"])
            assert gain["low"] <= gain["value"] <= gain["high"]


def test_the_file_says_what_the_defaults_are():
    assert load(SMOKE) == settings_class("pretext_benchmark")()


def test_the_settings_are_read_back_as_they_are():
    for file in ("smoke.yaml", "smoke_whole.yaml", "folder.yaml"):
        settings = load(FOLDER / file)
        assert parse(type(settings), to_dict(settings)) == settings


@pytest.mark.parametrize(("file", "num_looks"), [(SMOKE, 8), (WHOLE, 2)])
def test_no_part_of_the_smoke_file_mirrors_a_clip(file, num_looks):
    settings = load(file)
    looks = [value for task in to_dict(settings)["tasks"] for name, value in task.items() if name.endswith("look")]
    assert len(looks) == num_looks
    assert {look["flip_probability"] for look in looks} == {0.0}
    assert settings.finetuning.clips.flip_probability == settings.extraction.sampling.flip_probability == 0


def test_the_smoke_videos_are_long_enough_for_every_task():
    settings = load(SMOKE)
    least = {task.name: task.min_frames(settings.shape) for task in settings.tasks}
    assert least["vcop"] == least["prp"] == max(least.values()) == 32 <= settings.motion.num_frames


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["tasks=[{name: prp}]"], "motion.num_frames is 40, and prp needs videos of 64 frames or more; set motion"),
        (["input_size=24"], "prp reconstructs clips of 8, 16, … frames and 16, 32, … pixels, not 8 of 24"),
        (["networks=[r21d-tiny, r21d-tiny]"], "networks names 'r21d-tiny' twice; give each once"),
        (["tasks=[{name: prp}, {name: prp, complexity: c1}]"], "tasks names 'prp' twice; give each once"),
        (["tasks=[{name: rotnett}]"], "unknown pretext task 'rotnett'; did you mean 'rotnet'?"),
        (["tasks=[{name: rotnet, strid: 2}]"], "unknown key 'strid'; did you mean 'stride'?"),
        (["pretraining.task.name=vcop"], "pretraining.task is decided by the pipeline itself; give tasks instead"),
        (["teachers=[cvrl, tld]", "distillation={}"], "teachers names 'tld', which is none of tasks; add it there"),
        (["other_sources={a: {tasks: [svt]}}"], "other_sources.a.tasks names 'svt', which is none of tasks"),
        (["other_sources={a: {tasks: [vcop]}}"], "other_sources.a.motion.num_frames is 8, and vcop needs videos of 32"),
        (["distillation={teachers: [a]}"], "distillation.teachers is decided by the pipeline itself; give teachers"),
        (["distillation={}", "finetuning.frozen=true"], "finetuning.frozen is given, which students of distillation"),
        (["noise={runs: [a]}"], "noise.runs is decided by the pipeline itself; leave it out"),
        (["cka={layer: conv}"], "unknown key 'layer'; did you mean 'layers'?"),
        (["finetuning.training.seeds=[1]"], "finetuning.training.seeds is decided by the pipeline itself; leave it"),
        (["extraction.sampling.num_frames=4"], "decided by the pipeline itself; give num_frames instead"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(assignments, message):
    with pytest.raises(FeatcacheError) as error:
        load(SMOKE, assignments=assignments)
    assert message in str(error.value)


STUDENTS = ["student", "student, teachers permuted"]


def check_asked(result, out):
    """What was asked of fine-tuned networks is what their own files say."""
    found = rows(result)
    mean, other = (found[f"squeezenet3d-tiny, {kind}"]["fine-tuned"] for kind in STUDENTS)
    against = found["squeezenet3d-tiny, student"]["against permuted teachers"]
    assert against["gain"]["value"] == pytest.approx(mean["value"] - other["value"])
    rotnet = found["squeezenet3d-tiny, rotnet"]
    (noisy,) = (run for run in result["noise"]["runs"].values() if run["run"] == rotnet["fine-tuned"]["run"])
    drop = noisy["splits"]["test_seen"]["mean"]["robustness"]["drop"]
    assert (drop is None) == (rotnet["lost to noise"]["value"] is None)
    if drop is not None:
        assert {end: rotnet["lost to noise"][end] for end in drop} == pytest.approx(
            {end: 100 * value for end, value in drop.items()}
        )
    maps = result["cka"]["squeezenet3d-tiny, rotnet"]
    (measures,) = maps["maps"].values()
    assert rotnet["pairs above 0.9"]["value"] == pytest.approx(100 * measures["share_above"])
    assert rotnet["largest block"]["value"] == measures["largest"]["num_layers"]
    assert [name for name, each in result["cka"].items() if each["untrained"]] == ["squeezenet3d-tiny, scratch"]


def test_every_row_beside_its_controls_and_again_from_what_is_there(tmp_path):
    out = tmp_path / "out"
    first = run(SMOKE, f"out={out}", *TINY, *WHOLE_TINY)
    tasks = ["rotnet", "cvrl", "rotnet on slow"]
    check_table(first, ["squeezenet3d-tiny"], tasks, students=STUDENTS, asked=ASKED)
    check_asked(first, out)
    assert not (out / "videos").exists()
    assert not (out / "videos-slow").exists()
    names = ["untrained", "supervised-0", "rotnet-0", "cvrl-0", "rotnet-on-slow-0"]
    store = open_store(out / "store")
    assert (len(store.videos), sorted(store.features)) == (16, sorted(f"squeezenet3d-tiny-{name}" for name in names))
    before = steps_of(out)
    second = run(SMOKE, f"out={out}", *TINY, *WHOLE_TINY)
    assert second["table"] == first["table"]
    assert steps_of(out) == before


@pytest.mark.slow
def test_a_student_without_teachers_is_the_network_from_scratch(tmp_path):
    tasks = ["tasks=[{name: rotnet, stride: 1}]", "teachers=[rotnet]", "distillation={kd_weight: 0}"]
    result = run(SMOKE, f"out={tmp_path / 'out'}", *TINY, *tasks)
    files = [
        result["trained"][f"squeezenet3d-tiny, {kind}"]["fine-tuned"][0]["models"]["0"]
        for kind in ("scratch", *STUDENTS)
    ]
    scratch, *students = (load_file(file) for file in files)
    for made in students:
        assert made.keys() == scratch.keys()
        assert all(bool((made[name] == tensor).all()) for name, tensor in scratch.items())


@pytest.mark.slow
def test_a_task_a_network_and_a_seed_are_added_to_what_is_there(tmp_path):
    out = tmp_path / "out"
    first = run(SMOKE, f"out={out}", *TINY, "tasks=[{name: rotnet, stride: 1}]")
    check_table(first, ["squeezenet3d-tiny"], ["rotnet"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("steps.jsonl")}
    more = ["networks=[squeezenet3d-tiny,r3d-tiny]", "pretraining.training.seeds=[0,3]"]
    both = run(SMOKE, f"out={out}", *TINY, *more)
    check_table(both, ["squeezenet3d-tiny", "r3d-tiny"], ["rotnet", "cvrl"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    trained = both["trained"]["r3d-tiny, rotnet"]
    assert [list(tuned["weights"]) for tuned in trained["fine-tuned"]] == [["0"], ["3"]]
    accuracies = [tuned["splits"]["test_seen"]["metrics"]["top1"]["value"] for tuned in trained["fine-tuned"]]
    assert rows(both)["r3d-tiny, rotnet"]["fine-tuned"]["value"] == pytest.approx(100 * np.mean(accuracies))
    weights = [load_file(path) for path in trained["pretrained"]["weights"].values()]
    assert any(bool((weights[0][name] != tensor).any()) for name, tensor in weights[1].items())


@pytest.mark.slow
def test_the_file_for_a_folder_of_one_s_own(tmp_path):
    for number in range(12):
        path = tmp_path / "videos" / ("run", "jump")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames=10 if number == 7 else 20, width=64, height=48)
    small = [value for value in TINY if not value.startswith(("label", "motion"))]
    settings = [f"source={tmp_path / 'videos'}", "num_frames=8", "input_size=32", "linear.lrs=[0.01]"]
    workers = ["pretraining.workers=0", "finetuning.workers=0"]
    tasks = "tasks=[{name: rotnet, stride: 1},{name: rspnet, queue: 4}]"
    result = run(FOLDER / "folder.yaml", f"out={tmp_path / 'out'}", *small, *settings, *workers, tasks)
    check_table(result, ["squeezenet3d-tiny"], ["rotnet", "rspnet"])
    trained = [result["trained"][f"squeezenet3d-tiny, {task}"]["pretrained"] for task in ("rotnet", "rspnet")]
    assert trained[0]["num_videos"] == trained[1]["num_videos"] + trained[1]["num_short"]
    assert open_store(tmp_path / "out" / "store").num_rows("squeezenet3d-tiny-rspnet-0") == 120


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_smoke_file_whole(tmp_path):
    result = run(SMOKE, f"out={tmp_path / 'out'}", "pretraining.training.device=cpu", "finetuning.training.device=cpu")
    settings = load(SMOKE)
    check_table(result, settings.networks, [task.name for task in settings.tasks])
    assert {row["note"] for row in result["table"]["rows"]} == {"", "30,248 parameters", "228,692 parameters"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_smoke_file(tmp_path):
    result = run(WHOLE, f"out={tmp_path / 'out'}", "pretraining.training.device=cpu", "finetuning.training.device=cpu")
    check_table(result, ["r21d-tiny"], ["rotnet", "vcop", "rotnet on slower"], students=STUDENTS, asked=ASKED)


@pytest.mark.shared
@pytest.mark.timeout(1800)
def test_the_whole_smoke_file_on_real_clips(shared, tmp_path):
    few = [f"{part}.training.batch_size=4" for part in ("pretraining", "finetuning")]
    source = [f"source={shared / 'data' / 'videos'}", "selection.test_fraction=0.3", "label=label"]
    result = run(WHOLE, f"out={tmp_path / 'out'}", *source, *few, "tasks.1.gap=30")
    check_table(result, ["r21d-tiny"], ["rotnet", "vcop", "rotnet on slower"], students=STUDENTS, asked=ASKED)


@pytest.mark.shared
@pytest.mark.timeout(3600)
def test_the_smoke_file_on_real_clips(shared, tmp_path):
    few = [f"{part}.training.batch_size=4" for part in ("pretraining", "finetuning")]
    source = [f"source={shared / 'data' / 'videos'}", "selection.test_fraction=0.3", "label=label"]
    result = run(SMOKE, f"out={tmp_path / 'out'}", *source, *few, "tasks.1.gap=30")  # 84 frames, which two lack
    settings = load(SMOKE)
    check_table(result, settings.networks, [task.name for task in settings.tasks])
    notes = {row["name"]: row["note"] for row in result["table"]["rows"] if "short" in row["note"]}
    assert notes == {f"{network}, vcop": "2 of 12 videos too short" for network in settings.networks}
