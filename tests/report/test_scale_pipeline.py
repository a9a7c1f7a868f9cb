"""The pipeline ``scale``: its file is complete, and the whole way runs at sizes that take seconds."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load, settings_class
from featcache.config import read_mapping, to_dict
from featcache.report.tables import probe_table, value_at
from featcache.store.reader import open_store

MOTION = Path(__file__).parents[2] / "configs" / "scale" / "motion.yaml"
TINY = [
    "motion.num_frames=8",
    "motion.size=32",
    "motion.num_unseen_pictures=19",
    "motion.train_per_picture_motion=1",
    "feature.input_size=32",
    "extraction.sampling.num_clips=4",
    "extraction.sampling.num_frames=1",
    "extraction.sampling.test.num_clips=2",
    "extraction.sampling.test.num_crops=1",
    "pretraining.clips_per_set=2",
    "pretraining.predictor.width=32",
    "pretraining.predictor.depth=1",
    "pretraining.heads.target_hidden=16",
    "pretraining.heads.hidden=16",
    "pretraining.training.epochs=1",
    "pretraining.training.schedule.warmup_fraction=0",
    "pretraining.training.threads=1",
    "extraction.runtime.threads=1",
    "linear.epochs=1",
    "mlp.hidden=[8]",
    *(f"{name}.training.epochs=1" for name in ("mlp", "transformer", "scale_linear", "scale_ft")),
    *(f"{name}.training.lrs=[0.001]" for name in ("mlp", "transformer", "scale_linear", "scale_ft")),
]
PROBES = ["kNN", "SCALE_kNN", "linear", "MLP", "SCALE_linear", "Transformer", "SCALE_ft"]


def test_the_yaml_is_complete():
    assert to_dict(load(MOTION)) == read_mapping(MOTION) == to_dict(settings_class("scale")())


def test_splits_of_which_nothing_was_taught_are_no_columns():
    def split(value, unseen):
        metrics = {"top1": {"value": value, "low": value / 2, "high": 1.0}}
        return {"metrics": metrics, "num_videos": 4, "num_unseen": unseen}

    results = {
        "picture": {"kNN": {"splits": {"seen": split(0.5, 1), "unseen": split(0.0, 4)}}},
        "motion": {"kNN": {"splits": {"seen": split(0.25, 0), "unseen": split(0.75, 0)}}},
    }
    table = probe_table(results)
    assert table.columns == ("picture, seen", "motion, seen", "motion, unseen")
    ((name, _, _, cells),) = table.rows
    assert name == "kNN"
    assert (cells["motion, unseen"].value, cells["motion, unseen"].low, cells["picture, seen"].high) == (75, 37.5, 100)


def test_a_retrieval_has_its_r_at_1_in_the_table_and_numbers_have_no_place():
    metric = {"value": 0.5, "low": 0.25, "high": 0.75}
    kinds = {"retrieval": {"r@1": metric, "r@5": {**metric, "value": 1.0}}, "ridge": {"mse": metric}}
    results = {
        name: {"splits": {"test": {"metrics": metrics, "num_videos": 4, "num_unseen": 0}}}
        for name, metrics in kinds.items()
    }
    cells = {name: row["label, test"] for name, _, _, row in probe_table({"label": results}).rows}
    assert (cells["retrieval"].value, cells["retrieval"].low, cells["ridge"].value) == (50, 25, None)
    assert value_at(results["retrieval"], ["splits", "*", "metrics", "r@5"], where="a run").value == 100


@pytest.mark.slow
def test_the_whole_way_twice(tmp_path):
    flags = [word for value in TINY for word in ("--set", value)]
    tables = []
    for _ in range(2):  # the second takes up what is there
        result = CliRunner().invoke(
            app, ["run", str(MOTION), "--json", "--set", f"out={tmp_path / 'out'}", *flags], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        tables.append(json.loads((tmp_path / "out" / "table.json").read_text()))
    assert tables[0] == tables[1]
    assert [row["name"] for row in tables[0]["rows"]] == PROBES
    assert tables[0]["columns"] == ["picture, test_seen", "motion, test_seen", "motion, test_unseen"]
    assert not (tmp_path / "out" / "videos").exists()
    assert len(open_store(tmp_path / "out" / "store").videos) == 3 * 8 * 2 + 19 * 8
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    for by_probe in summary["probes"].values():
        for name in ("SCALE_kNN", "SCALE_linear", "SCALE_ft"):
            assert by_probe[name]["settings"]["model"] == str(tmp_path / "out" / "predictor")
        assert by_probe["Transformer"]["settings"]["predictor"]["width"] == 32
