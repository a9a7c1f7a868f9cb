"""The shipped tables of the pretext benchmark: settings, baselines, what they share, and that each runs on videos."""

import functools
import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.cost import BackboneCostSettings, count_backbone
from featcache.commands.registry import load
from featcache.commands.steps import parse_steps
from featcache.commands.sweeps import cell_names, points_of, sweep_steps, table_columns
from featcache.config import read_mapping, to_dict
from featcache.data.importers import DATASETS
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.extract.settings import ExtractSettings
from featcache.loaders.views import ClipShape
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.pretext.settings import PretextSettings
from featcache.metrics.robustness import relative_drop
from featcache.noise import KINDS
from featcache.shipped import configs_by_paper
from featcache.testing.videos import write_video

FILES = configs_by_paper()["pretext"]
DISTILLED = ("table7", "table13", "table14", "table15", "fig4a", "fig5a", "fig5b")
"""Tables and figures of students, which other tests are about."""
TABLES = {stem: path for stem, path in FILES.items() if stem.startswith("table") and stem not in DISTILLED}
FAST = {"precision": "bfloat16", "matmul": "high"}
"""Of trainings that take a GPU for days."""
BASELINES = {"from scratch", "untrained"}
BENCH = to_dict(load(FILES["bench"]))


@functools.cache
def runs_of(stem):
    """Every run of a table by its folder."""
    runs = {}
    for steps in sweep_steps(load(FILES[stem])):
        for step in parse_steps(steps):
            assert runs.setdefault(step.out, step) == step
    return runs


def pretrainings():
    return [step for stem in TABLES for step in runs_of(stem).values() if isinstance(step, PretextSettings)]


def finetunings(*, of_source):
    return [
        (stem, step)
        for stem in TABLES
        for step in runs_of(stem).values()
        if isinstance(step, FinetuneSettings) and (step.dataset in ("kinetics400", "ssv2")) == of_source
    ]


def test_there_is_a_file_for_every_table_that_files_can_make():
    assert set(TABLES) == {
        "table1", "table1_crops", "table2", "table3", "table4", "table5", "table8", "table9", "table10", "table11",
        "table12", "table14_distribution", "table16", "table17",
    }  # fmt: skip


def test_pre_training_is_that_of_the_bench():
    for step in pretrainings():
        DATASETS.load(step.dataset)
        if step.task.name == "videomae":
            released = to_dict(load(FILES["videomae_released"]))
            released["training"] |= FAST | {"keep_epochs": [200]}
            assert to_dict(step) == released | {"out": step.out}
            continue
        own = {key: to_dict(step)[key] for key in ("task", "backbone", "dataset", "root", "num_frames", "out")}
        bench = BENCH | own | {"training": BENCH["training"] | FAST}
        assert to_dict(step) == bench | {"selection": bench["selection"] | {"subset": step.selection.subset}}


def test_fine_tuning_is_one_for_all_and_supervised_rows_train_as_long_as_the_tasks():
    laws = set()
    for stem, step in finetunings(of_source=False):
        laws.add((step.clips.crop, step.clips.flip_probability))
        assert stem == "table1_crops" or step.clips.crop == "centre"
        assert (step.clips.num_frames, step.clips.frame_stride, step.clips.side_range[1]) == (16, 1, 0.875)
        assert (step.test.num_clips, step.test.num_crops, step.test.average) == (10, 1, "logits")
        training = step.training
        assert (training.epochs, training.batch_size, training.optimiser.lr) == (150, 8, 1e-3)
        assert (training.optimiser.name, training.optimiser.weight_decay, training.schedule.kind) == (
            "sgd", 5e-4, "constant",
        )  # fmt: skip
    assert laws == {("centre", 0.0), ("resized", 0.5)}
    for _, step in finetunings(of_source=True):
        assert to_dict(step)["training"] == BENCH["training"] | FAST
        assert (step.weights, step.input_size, step.clips.num_frames) == ("random", 112, 16)
        assert step.clips.flip_probability == (0.0 if step.dataset == "ssv2" else 0.5)


@pytest.mark.parametrize("stem", TABLES)
def test_every_table_has_its_baselines(stem):
    settings = load(TABLES[stem])
    values = {value for point in points_of(settings) for value in point.values.values()}
    assert settings.against in values & BASELINES
    assert "supervised" in values
    assert "Differences below about 2 points are not evidence" in settings.note
    assert settings.runs == "runs/pretext_benchmark"
    assert settings.out == f"runs/pretext_benchmark/{stem}"
    for point, steps in zip(points_of(settings), sweep_steps(settings), strict=True):
        parsed = parse_steps(steps)
        trained = [step for step in parsed if isinstance(step, PretextSettings)]
        targets = [each for each in parsed if isinstance(each, FinetuneSettings) and each.weights != "random"]
        read = {each.weights for each in targets}
        read |= {each.features[0].weights for each in parsed if isinstance(each, ExtractSettings)}
        if BASELINES & set(point.values.values()):  # nothing is trained before it
            assert not trained
            assert not read - {"random"}
        elif "RSPNet, R21D-18" in point.values.values():
            assert (trained, read) == ([], {"default"})
        else:
            (first, *_) = parsed
            is_supervised = "supervised" in point.values.values()
            assert first.command == ("train-finetune" if is_supervised else "train-pretext")
            (weights,) = read
            epoch = int(re.fullmatch(rf"{first.out}/seed-0/epoch-(\d+)\.safetensors", weights)[1])
            assert epoch in first.training.keep_epochs
            assert {each.backbone for each in (first, *targets)} == {first.backbone}


@pytest.mark.parametrize(
    ("stem", "shape", "counts"),
    [
        ("table1", (8, 3), {"train-pretext": 18, "train-finetune": 3 + 21 + 1}),
        ("table1_crops", (8, 2), {"train-pretext": 6, "train-finetune": 1 + 14 + 2}),
        ("table2", (8, 4), {"train-pretext": 6, "train-finetune": 1 + 28 + 1}),
        ("table3", (11, 2), {"train-pretext": 18, "train-finetune": 2 + 20 + 2}),
        ("table4", (2, 8), {"train-pretext": 12, "train-finetune": 2 + 14 + 2, "evaluate-noise": 16}),
        ("table5", (3, 2), {"train-finetune": 1 + 6}),
        ("table8", (8, 3), {"train-pretext": 18, "train-finetune": 3 + 21 + 1}),
        ("table9", (5, 4), {"train-pretext": 6, "train-finetune": 2 + 10, "extract": 10, "probe-linear": 10}),
        ("table10", (6, 8), {"train-pretext": 24, "train-finetune": 6 + 30 + 6, "cost-backbone": 6}),
        ("table11", (6, 12), {"train-pretext": 12, "train-finetune": 12 + 60 + 3}),
        ("table12", (8, 5), {"train-pretext": 6, "train-finetune": 1 + 7 + 1, "evaluate-noise": 8}),
        ("table14_distribution", (8, 4), {"train-pretext": 12, "train-finetune": 2 + 28 + 2}),
        ("table16", (18, 4), {"train-pretext": 6, "train-finetune": 6, "extract": 36, "probe-retrieval": 36}),
        ("table17", (4, 2), {"train-pretext": 1, "train-finetune": 1 + 8}),
    ],
)
def test_cells_share_runs(stem, shape, counts):
    settings = load(TABLES[stem])
    assert (len({point.row for point in points_of(settings)}), len(table_columns(settings))) == shape
    assert Counter(step.command for step in runs_of(stem).values()) == counts


def test_tables_share_runs():
    shared, apart = {}, Counter()
    for stem in TABLES:
        runs = runs_of(stem)
        apart.update(step.command for step in runs.values() if step.command.startswith("train"))
        for out, step in runs.items():
            assert shared.setdefault(out, step) == step
    assert apart == {"train-pretext": 145, "train-finetune": 331}
    together = Counter(step.command for step in shared.values() if step.command.startswith("train"))
    assert together == {"train-pretext": 67, "train-finetune": 213}
    last = {stem: set(runs_of(stem)) for stem in ("table1", "table2", "table11", "table1_crops")}
    assert len(last["table1"] & last["table2"]) == 7 + 8  # pre-trained on 50k, and fine-tuned after 200 epochs
    assert len(last["table1"] & last["table11"]) == 3 + 3 + 6 + 1  # RSPNet and supervised on three subsets, scratch
    assert len(last["table1"] & last["table1_crops"]) == 7 + 8


def test_noise_is_put_on_networks_that_other_tables_train():
    own, others = {}, {}
    for stem in TABLES:
        (own if stem in ("table4", "table12") else others).update(runs_of(stem))
    new = [step for out, step in own.items() if out not in others]
    trained = [step for step in new if isinstance(step, PretextSettings)]
    assert {(step.task.name, step.backbone) for step in trained} == {("cvrl", "shufflenet3d"), ("tdl", "shufflenet3d")}
    assert Counter(step.command for step in new) == {"evaluate-noise": 16, "train-pretext": 2, "train-finetune": 2}
    for step in new:
        if isinstance(step, NoiseEvaluationSettings):
            assert (step.noise, step.severity) == (("gaussian", "impulse", "shot", "speckle"), (3,))
            assert (step.place, step.table) == ("frame", "video")


def test_drops_of_table_4_are_those_of_the_accuracies_of_table_12():
    printed = load(TABLES["table4"]).grid.published["r21d"]
    found = {
        task: 100 * float(np.mean([relative_drop(row["clean"], row[kind]) for kind in KINDS]))
        for task, row in load(TABLES["table12"]).grid.published.items()
    }
    apart = {task: round(found[task], 1) for task in printed if round(found[task], 1) != printed[task]}
    assert apart == {"vcop": 19.2, "cvrl": 77.2}
    notes = load(TABLES["table4"]).grid.notes["r21d"]
    assert all(str(value) in notes for value in (*apart.values(), printed["vcop"], printed["cvrl"]))


def test_another_law_of_crops_keeps_the_pre_trainings():
    changed = load(TABLES["table1"], assignments=["steps.1.clips.crop=resized", "steps.1.clips.flip_probability=0.5"])
    outs = {step.out for steps in sweep_steps(changed) for step in parse_steps(steps)}
    kept = outs & set(runs_of("table1"))
    assert {runs_of("table1")[out].dataset for out in kept} == {"kinetics400"}
    assert len(kept) == 21
    assert len(outs & set(runs_of("table1_crops"))) == 7 + 8


def test_supervised_rows_see_the_videos_of_the_tasks():
    for stem in TABLES:
        settings = load(TABLES[stem])
        seen = {}
        for point, steps in zip(points_of(settings), sweep_steps(settings), strict=True):
            first = parse_steps(steps)[0]
            if first.command == "train-pretext" or "supervised" in point.values.values():
                seen.setdefault("supervised" in point.values.values(), set()).add(
                    (first.dataset, first.selection.subset, first.backbone)
                )
        assert seen[True] == seen.get(False, seen[True]), stem


def test_few_videos_of_something_something_are_too_short():
    found = {
        step.task.name: step.task.min_frames(ClipShape(step.num_frames, step.input_size))
        for step in pretrainings()
        if step.dataset == "ssv2"
    }
    assert found == {"rotnet": 31, "vcop": 32, "prp": 32, "cvrl": 31, "tdl": 24, "rspnet": 32}


@pytest.mark.parametrize(("network", "printed"), load(TABLES["table10"]).grid.published.items())
def test_parameters_and_operations_are_those_of_the_paper(network, printed, tmp_path):
    (step,) = (
        step
        for step in runs_of("table10").values()
        if isinstance(step, BackboneCostSettings) and step.backbone == network
    )
    cost = count_backbone(step.model_copy(update={"out": str(tmp_path)})).cost
    assert round(cost["megaparameters"], 1) == printed["parameters (M)"]
    assert cost["gigaflops"] == pytest.approx(printed["GFLOPs"], rel=0.07)  # normalisations are not counted
    assert cost["gigaflops"] == pytest.approx(2000 * cost["teramacs"])


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Twelve short videos of two classes, eight to train on."""
    folder = tmp_path_factory.mktemp("videos")
    lines = []
    for number in range(12):
        path = folder / f"{number}.mp4"
        write_video(path, num_frames=78 + number, width=64, height=48)
        split = "test" if number >= 8 else "train"
        lines.append({"path": path.name, "label": "ab"[number % 2], "split": split})
    (folder / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "videos.jsonl"


TRAINING = {"batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1}
KEPT = {"050": "001", "100": "002", "150": "003", "200": "004"}
NUM_VIDEOS = {10_000: 4, 30_000: 5, 50_000: 6, 100_000: 8}


def small_step(step, listing):
    """A step at sizes that run in seconds: thin networks, small clips, few videos and epochs."""
    step = {key: value for key, value in step.items() if key not in ("dataset", "root", "selection", "matmul")}
    if "backbone" in step:
        step["backbone"] = f"{step['backbone']}-tiny"
    if "weights" in step:
        step["weights"] = small_weights(step["weights"])
    if step["command"].startswith("train"):
        step |= {"source": str(listing), "workers": 0, "input_size": 48}
        step["training"] = TRAINING | {"epochs": 4 if "keep_epochs" in step["training"] else 1}
        if step["training"]["epochs"] == 4:
            step["training"]["keep_epochs"] = [1, 2, 3, 4]
    if step["command"] == "train-pretext":
        step["num_frames"] = 8
    if step["command"] == "train-finetune":
        step["clips"] = step["clips"] | {"num_frames": 8}
        step["test"] = step["test"] | {"num_clips": 1}
    if step["command"] == "extract":
        (feature,) = step["features"]
        feature |= {"backbone": f"{feature['backbone']}-tiny", "input_size": 48}
        feature["weights"] = small_weights(feature["weights"])
        step |= {"source": str(listing), "features": [feature], "runtime": {"device": "cpu", "threads": 1}}
        step["sampling"] = step["sampling"] | {"num_frames": 8, "num_clips": 1}
    if step["command"] == "evaluate-noise":
        step |= {"num_clips": 1, "workers": 0, "device": "cpu", "intervals": {"num_resamples": 20}}
    if step["command"] == "evaluate-cka":
        (network,) = step["networks"]
        step |= {"networks": [network | {"backbone": f"{network['backbone']}-tiny"}], "source": str(listing)}
        step |= {"num_frames": 8, "input_size": 48, "workers": 0, "device": "cpu"}
    if step["command"] == "cost-backbone":
        step |= {"num_frames": 8, "input_size": 48}
    if step["command"].startswith("probe"):
        step |= {"intervals": {"num_resamples": 20}}
    if step["command"] == "probe-linear":
        step["linear"] = {"seeds": [0], "epochs": 1, "lrs": [0.1], "optimizers": ["sgd"], "batch_size": 8}
    return step


def small_weights(weights):
    if weights == "default":
        return "random"
    return re.sub(r"epoch-(\d+)", lambda found: f"epoch-{KEPT[found[1]]}", weights)


def small_changes(changes, listing):
    """What a row or a value of an axis sets, at such sizes."""
    small = {}
    for key, value in changes.items():
        if key.isdigit():
            small[key] = small_step(value, listing)
        elif key.endswith(".weights"):
            small[key] = small_weights(value)
        elif key.endswith("backbone"):
            small[key] = f"{value}-tiny"
        elif key.endswith("subset"):
            small[key] = NUM_VIDEOS[value]
        else:
            small[key] = value
    return small


def small(path, *, listing, folder):
    """A shipped table with its rows, columns and steps at sizes that run in seconds."""
    data = read_mapping(path) | {"out": str(folder / path.stem), "runs": str(folder)}
    data["steps"] = [small_step(step, listing) for step in data["steps"]]
    for row in data.get("rows", ()):
        row["set"] = small_changes(row.get("set", {}), listing)
    if "grid" in data:
        axes = data["grid"]["axes"]
        data["grid"]["axes"] = {
            axis: {value: small_changes(changes, listing) for value, changes in values.items()}
            for axis, values in axes.items()
        }
    return data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs that the tables share."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stem", TABLES)
def test_every_table_runs_on_other_videos(stem, listing, runs):
    data = small(TABLES[stem], listing=listing, folder=runs)
    file = runs / f"{stem}.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    result = CliRunner().invoke(app, ["run", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    settings = load(TABLES[stem])
    table = json.loads((runs / stem / "table.json").read_text())
    assert table["columns"] == table_columns(settings)
    rows = {row["name"]: row for row in table["rows"]}
    assert [*rows] == list(dict.fromkeys(
        (*(row.name for row in settings.quoted), *(point.row for point in points_of(settings)))
    ))  # fmt: skip
    for point, names in zip(points_of(settings), cell_names(settings), strict=True):
        row = rows[point.row]
        is_baseline = settings.against in point.values.values()
        for column in settings.columns:
            cell = row[names[column]]
            if settings.columns[column] is None:
                assert cell["value"] is None
            elif "robustness" in settings.columns[column]:  # a gain under noise is a loss below 0
                assert cell["value"] is None or cell["low"] <= cell["value"] <= cell["high"] <= 100
                assert is_baseline or cell["value"] is None or cell["gain"] is not None
            elif "cost" in settings.columns[column]:
                assert cell["value"] > 0
            else:
                assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 100
                is_alike = is_baseline or point.row.startswith("RSPNet, ")  # published weights are random ones here
                has_gain = not is_alike and not column.endswith("R@5")
                assert (cell["gain"] is not None) == has_gain
    for name, published in settings.published_of_grid.items():
        assert {column: rows[name][column]["published"] for column in published} == published
    if settings.note:
        assert " ".join(settings.note.split()) in " ".join((runs / stem / "table.md").read_text().split())
