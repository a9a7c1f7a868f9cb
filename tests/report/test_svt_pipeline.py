"""The pipeline ``svt``: its file is complete, and the whole way runs at sizes that take seconds."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load, settings_class
from featcache.config import parse, read_mapping, to_dict
from featcache.store.reader import open_store

FOLDER = Path(__file__).parents[2] / "configs" / "svt"
MOTION = FOLDER / "motion.yaml"
TINY = [
    "pretraining.views.global_frames=[2,4]",
    "pretraining.views.local_frames=[2,2]",
    "pretraining.views.global_size=32",
    "pretraining.views.local_size=16",
    "pretraining.head.hidden=16",
    "pretraining.head.bottleneck=8",
    "pretraining.head.prototypes=32",
    "pretraining.workers=0",
    "finetuning.workers=0",
    "input_size=32",
    "linear.epochs=1",
    *(f"{part}.training.epochs=1" for part in ("pretraining", "finetuning")),
    *(f"{part}.training.batch_size=4" for part in ("pretraining", "finetuning")),
    *(f"{part}.training.schedule.warmup_fraction=0" for part in ("pretraining", "finetuning")),
    *(f"{part}.device=cpu" for part in ("pretraining.training", "finetuning.training", "extraction.runtime", "probes")),
    *(f"{part}.threads=1" for part in ("pretraining.training", "finetuning.training", "extraction.runtime")),
]
CLIPS = [
    "motion.num_frames=8",
    "motion.size=32",
    "motion.num_unseen_pictures=20",
    "motion.train_per_picture_motion=1",
    "motion.test_seen_per_picture_motion=1",
    "motion.test_unseen_per_picture_motion=0",
    "extraction.sampling.num_frames=4",
]


def run(path, *assignments):
    flags = [word for value in assignments for word in ("--set", value)]
    result = CliRunner().invoke(app, ["run", str(path), "--json", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_yaml_is_complete():
    assert to_dict(load(MOTION)) == read_mapping(MOTION) == to_dict(settings_class("svt")())


def test_no_part_of_the_motion_file_mirrors_a_clip():
    settings = load(MOTION)
    assert settings.pretraining.views.flip_probability == settings.finetuning.clips.flip_probability == 0
    assert settings.extraction.sampling.flip_probability == 0


def test_fine_tuning_may_be_left_out():
    settings = load(MOTION, assignments=["finetuning=null"])
    assert settings.finetuning is None
    assert to_dict(settings)["finetuning"] is None
    assert parse(type(settings), to_dict(settings)) == settings


@pytest.mark.slow
def test_the_whole_way_twice(tmp_path):
    out = tmp_path / "out"
    first, second = (run(MOTION, f"out={out}", "pretraining.training.seeds=[0,3]", *TINY, *CLIPS) for _ in range(2))
    assert first["table"] == second["table"]  # the second takes up what is there
    names = ["trained-0", "trained-3", "untrained-0", "untrained-3"]
    rows = [f"{probe}, {name}" for probe in ("kNN", "linear") for name in names]
    assert [row["name"] for row in first["table"]["rows"]] == [
        *rows, "fine-tuned, trained-0", "fine-tuned, untrained-0"
    ]  # fmt: skip
    assert first["table"]["columns"] == ["picture, test_seen", "motion, test_seen"]
    assert [row["picture, test_seen"]["value"] is None for row in first["table"]["rows"]] == [False] * 8 + [True] * 2
    assert not (out / "videos").exists()
    store = open_store(out / "store")
    assert (len(store.videos), sorted(store.features)) == (32, sorted(names))
    assert json.loads((out / "table.json").read_text()) == first["table"]
    weights = [load_file(first["pretrained"]["weights"]["3"]), load_file(out / "untrained" / "seed-3.safetensors")]
    assert weights[0].keys() == weights[1].keys()
    assert any(bool((weights[0][name] != tensor).any()) for name, tensor in weights[1].items())


@pytest.mark.shared
def test_the_whole_way_on_real_clips(shared, tmp_path):
    result = run(FOLDER / "folder.yaml", f"source={shared / 'data' / 'videos'}", f"out={tmp_path / 'out'}", *TINY)
    assert result["pretrained"]["num_videos"] >= 8
    assert {row["name"] for row in result["table"]["rows"]} >= {"kNN, trained-0", "fine-tuned, trained-0"}
    assert result["table"]["columns"] == ["label, test"]
