"""Tables of a paper in one command: what they need, what is missing, and a small one from videos to the table."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache import shipped
from featcache.cli.main import app
from featcache.commands.reproduce import ReproduceSettings, _needed
from featcache.commands.reproduction import needed, table_names
from featcache.config import to_dict
from featcache.errors import ConfigError, UnknownNameError
from featcache.extract import estimate
from featcache.machine import using_weights_folder
from featcache.shipped import configs_by_paper
from featcache.testing import datasets

PAPERS = ("advise", "scale", "svt", "pretext")
TABLES = [(paper, name) for paper in PAPERS for name in table_names(configs_by_paper()[paper])]
TREES = {
    "ucf101": datasets.make_ucf101,
    "hmdb51": datasets.make_hmdb51,
    "diving48": datasets.make_diving48,
    "ssv2": datasets.make_ssv2,
    "kinetics400": datasets.make_kinetics,
    "lvu": datasets.make_lvu,
}


def plain(paper, *tables):
    return needed(paper, tables, roots={}, weights={})


def test_names_of_tables_are_in_the_order_of_the_paper():
    mixed = ("fig5b", "table10", "fig14", "table2_crops", "fig5a", "table2", "bench", "fig4a")
    assert table_names({stem: Path(stem) for stem in mixed}) == [
        "fig4a",
        "fig5a",
        "fig5b",
        "fig14",
        "table2",
        "table10",
    ]
    assert table_names(configs_by_paper()["scale"]) == [f"table{number}" for number in range(1, 12)]


@pytest.mark.parametrize("paper", PAPERS)
def test_shipped_files_make_all_that_the_tables_read(paper):
    assert plain(paper, "all").unmade == ()


def test_one_extraction_per_store_for_all_its_backbones():
    wanted = plain("scale", "table5", "table8")
    stores = {one.out: [feature.name for feature in one.features] for one in wanted.extractions}
    assert stores == {
        "stores/hmdb51-scale": ["svt-b", "rho-byol-r50", "videomae-b", "videomae-l", "videomae-b-k400"],
        "stores/ucf101-scale": ["svt-b", "rho-byol-r50"],
    }
    assert dict(wanted.datasets) == {"hmdb51": "videos/hmdb51", "ucf101": "videos/ucf101"}
    assert {name for name, _ in wanted.backbones} == set(stores["stores/hmdb51-scale"])


def test_arrays_that_are_joined_when_they_are_read_are_extracted_one_by_one():
    stores = {one.out: {feature.name for feature in one.features} for one in plain("advise", "table4").extractions}
    models = {"clip-l14", "mae-l16", "dinov2-l14"}
    assert stores == {"stores/ucf101": models, "stores/diving48": models}


def test_rows_that_share_a_training_count_it_once():
    (counts,) = plain("scale", "table7").counts
    assert counts == ("SCALE, Table 7, Kinetics-400, 10 % of the labels", 5, 5, 25)


def test_a_network_that_another_file_trains_is_trained_first():
    wanted = plain("svt", "table1")
    assert [to_dict(step)["command"] for step in wanted.before] == ["train-svt"]
    assert "kinetics400" in dict(wanted.datasets)
    assert all("runs/" not in weights for _, weights in wanted.backbones)


def test_the_image_network_with_which_a_training_begins_is_looked_for_among_the_weights(tmp_path):
    settings = ReproduceSettings(paper="svt", tables=("table1",), weights_folder=str(tmp_path))
    with using_weights_folder(tmp_path):
        (training,) = _needed(settings).before
        assert training.init.weights == "dino_vitbase16_pretrain.pth"
        (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"weights")
        (training,) = _needed(settings).before
        assert training.init.weights == str(tmp_path / "dino_vitbase16_pretrain.pth")


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="unknown paper 'scal'; did you mean 'scale'"):
        plain("scal", "table1")
    with pytest.raises(UnknownNameError, match="unknown table of scale 'table55'; did you mean 'table5'"):
        plain("scale", "table55")
    with pytest.raises(UnknownNameError, match="unknown data set of these settings 'hmdb'; did you mean 'hmdb51'"):
        needed("scale", ["table5"], roots={"hmdb": "x"}, weights={})


@pytest.fixture
def small_paper(tmp_path, monkeypatch):
    """A paper with one table of two rows, one of them of another array, and the file that extracts them."""
    folder = tmp_path / "configs" / "mini"
    folder.mkdir(parents=True)
    lite0 = "timm/tf_efficientnet_lite0"
    extraction = {
        "command": "extract",
        "dataset": "ucf101",
        "root": "videos/ucf101",
        "out": str(tmp_path / "store"),
        "features": [
            {"backbone": lite0, "layer": "blocks.1", "name": "one"},
            {"backbone": lite0, "layer": "blocks.2", "name": "two"},
            {"backbone": "svt-b", "name": "unread"},
        ],
        "sampling": {"num_clips": 1, "num_frames": 2, "frame_stride": 1},
        "runtime": {"device": "cpu", "threads": 1},
    }
    probe = {"command": "probe-knn", "label": "label", "knn": {"ks": [3]}, "intervals": {"num_resamples": 20}}
    table = {
        "command": "sweep",
        "title": "Mini, Table 1",
        "store": str(tmp_path / "store"),
        "steps": [probe],
        "rows": [{"name": name, "set": {"0.feature": name}, "published": {"k-NN": 50.0}} for name in ("one", "two")],
        "columns": {"k-NN": "0.splits.test.metrics.top1"},
        "out": str(tmp_path / "table1"),
    }
    (folder / "ucf101_extract.yaml").write_text(yaml.safe_dump(extraction))
    (folder / "table1.yaml").write_text(yaml.safe_dump(table))
    monkeypatch.setattr(shipped, "_folder", lambda name: tmp_path / name)
    return tmp_path


def reproduce(*words):
    return CliRunner().invoke(app, ["reproduce", *map(str, words)])


@pytest.mark.slow
def test_a_dry_run_measures_and_writes_nothing(small_paper):
    datasets.make_ucf101(small_paper / "ucf101")
    root = f"ucf101={small_paper / 'ucf101'}"
    planned = reproduce("mini", "table1", "--root", root, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert plan["missing"] == []
    (extraction,) = plan["extractions"]
    assert extraction["features"] == ["one", "two"]
    assert extraction["num_videos"] == 11
    assert extraction["num_bytes"] > 0
    assert extraction["seconds"] > 0
    assert not (small_paper / "store").exists()


def test_from_videos_to_a_table_in_one_command(small_paper):
    datasets.make_ucf101(small_paper / "ucf101")
    root = f"ucf101={small_paper / 'ucf101'}"
    done = reproduce("mini", "table1", "--root", root)
    assert done.exit_code == 0, done.output
    rows = json.loads((small_paper / "table1" / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["one", "two"]
    for row in rows:
        cell = row["k-NN"]
        assert cell["difference"]["value"] == pytest.approx(cell["value"] - 50.0)
        assert cell["difference"]["low"] <= cell["difference"]["value"] <= cell["difference"]["high"]
    assert "ours - published" in done.output


def test_what_is_missing_is_named_and_nothing_is_begun(small_paper):
    planned = reproduce("mini", "table1", "--weights", "timm/tf_efficientnet_lite0=none.pth", "--dry-run", "--json")
    videos, weights = json.loads(planned.stdout)["missing"]
    assert videos.startswith("the videos of ucf101 are not in 'videos/ucf101'; give --root ucf101=DIR (")
    assert "'none.pth' of timm/tf_efficientnet_lite0 are no file" in weights
    begun = reproduce("mini", "table1")
    assert isinstance(begun.exception, ConfigError)
    assert str(begun.exception) == videos
    (small_paper / "ucf101" / "UCF-101").mkdir(parents=True)
    listless = reproduce("mini", "table1", "--root", f"ucf101={small_paper / 'ucf101'}")
    assert "trainlist" in str(listless.exception)
    assert not (small_paper / "store").exists()


def test_a_dry_run_names_a_library_that_is_not_installed(small_paper, monkeypatch):
    def lacks_its_library(name, *, weights):
        raise ConfigError(f"{name} needs a library that is not installed")

    monkeypatch.setattr("featcache.backbones.build_backbone", lacks_its_library)
    (small_paper / "ucf101").mkdir()
    planned = reproduce("mini", "table1", "--root", f"ucf101={small_paper / 'ucf101'}", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert plan["missing"][-1] == "timm/tf_efficientnet_lite0 needs a library that is not installed"
    assert plan["extractions"][0]["num_bytes"] is None


def test_an_array_that_no_file_extracts_is_named(small_paper):
    path = small_paper / "configs" / "mini" / "table1.yaml"
    path.write_text(path.read_text().replace("0.feature: two", "0.feature: three"))
    (sentence,) = plain("mini", "table1").unmade
    assert sentence == f"no shipped file extracts 'three' into {str(small_paper / 'store')!r}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_a_dry_run_of_every_table_on_official_trees(paper, table, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "measure", lambda prepared, manifest: (2.0, 1.0, 1))
    wanted = plain(paper, table)
    words = []
    for name, _ in wanted.datasets:
        TREES[name](tmp_path / name)
        words += ["--root", f"{name}={tmp_path / name}"]
    for name in dict.fromkeys(name for name, _ in wanted.backbones):  # where only time counts, weights are random
        words += ["--weights", f"{name}=random"]
    planned = reproduce(paper, table, *words, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert [sentence for sentence in plan["missing"] if "dino_vitbase16_pretrain" not in sentence] == []
    assert all(one["num_bytes"] > 0 and one["seconds"] > 0 for one in plan["extractions"])
