"""The shipped figures of the pretext benchmark: source by target, and maps of layers; all of networks of its tables."""

import json
from collections import Counter

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.commands.steps import parse_steps
from featcache.commands.sweeps import points_of, sweep_steps, table_columns
from featcache.evaluation.cka_settings import CkaSettings
from featcache.extract.settings import ExtractSettings
from featcache.methods.finetune.settings import FinetuneSettings
from tests.report.test_shipped_pretext import DISTILLED, FILES, TABLES, listing, runs, runs_of, small

__all__ = ["listing", "runs"]  # fixtures
FIGURES = {stem: path for stem, path in FILES.items() if stem.startswith("fig") and stem not in DISTILLED}
MAPS = ("fig8", "fig9", "fig12", "fig14")
MEASURES = ["mean", "share above 0.9", "largest block"]


def test_there_is_a_file_for_every_figure_that_is_not_drawn_from_a_table():
    assert set(FIGURES) == {"fig3", "fig3_lengths", *MAPS}


@pytest.mark.parametrize(
    ("stem", "num_rows", "counts"),
    [
        ("fig3", 8, {"train-pretext": 12, "train-finetune": 32, "extract": 30, "probe-retrieval": 30}),
        ("fig3_lengths", 6, {"train-pretext": 12}),
        ("fig8", 16, {"train-pretext": 12, "train-finetune": 2 + 14 + 2, "evaluate-cka": 16}),
        ("fig9", 21, {"train-pretext": 4, "train-finetune": 4 + 20 + 1, "evaluate-cka": 21}),
        ("fig12", 22, {"train-pretext": 18, "train-finetune": 2 + 20 + 2, "evaluate-cka": 22}),
        ("fig14", 7, {"train-pretext": 4, "train-finetune": 2 + 6 + 1, "evaluate-cka": 7}),
    ],
)
def test_figures_train_nothing_that_tables_do_not(stem, num_rows, counts):
    settings, mine = load(FIGURES[stem]), runs_of(stem)
    assert (settings.runs, settings.out) == ("runs/pretext_benchmark", f"runs/pretext_benchmark/{stem}")
    assert len({point.row for point in points_of(settings)}) == num_rows
    assert Counter(step.command for step in mine.values()) == counts
    trained = {out: step for out, step in mine.items() if step.command.startswith("train")}
    tables = {out: step for table in TABLES for out, step in runs_of(table).items() if out in trained}
    assert tables == trained


@pytest.mark.parametrize("stem", MAPS)
def test_maps_are_of_fine_tuned_networks_beside_untrained_ones(stem):
    settings = load(FIGURES[stem])
    assert table_columns(settings) == [each for name in MEASURES for each in (name, f"{name}, untrained")]
    names = [value for point in points_of(settings) for value in point.values.values()]
    assert any(name.startswith("from scratch") for name in names)
    assert any(name.startswith("supervised") for name in names)
    read = Counter()
    for steps in sweep_steps(settings):
        *_, tuned, cka = parse_steps(steps)
        assert isinstance(tuned, FinetuneSettings)
        assert isinstance(cka, CkaSettings)
        (network,) = cka.networks
        assert network.weights == f"{tuned.out}/seed-0/backbone.safetensors"
        assert (network.backbone, cka.dataset, cka.num_frames, cka.input_size) == (tuned.backbone, "ucf101", 16, 112)
        assert cka.frame_stride == tuned.clips.frame_stride
        read[network.weights] += 1
    assert set(read.values()) == {1}, "a map is drawn twice"


def test_sources_and_targets_are_crossed():
    settings = load(FIGURES["fig3"])
    assert settings.against == "from scratch"
    assert "Differences below about 2 points are not evidence" in settings.note
    targets = ("UCF101", "Diving48", "UCF101 R@1", "Diving48 R@1")
    assert table_columns(settings) == [f"{source}, {target}" for source in ("K400", "SSv2") for target in targets]
    for point, steps in zip(points_of(settings), sweep_steps(settings), strict=True):
        parsed = parse_steps(steps)
        read = {
            each.weights for each in parsed if isinstance(each, FinetuneSettings) and "kinetics" not in each.dataset
        }
        read -= {"random"} if point.values["task"] == "supervised" else set()
        read |= {each.features[0].weights for each in parsed if isinstance(each, ExtractSettings)}
        (weights,) = read
        if point.values["task"] == "from scratch":
            assert weights == "random"
            continue
        first = parsed[0]
        assert first.dataset == {"K400": "kinetics400", "SSv2": "ssv2"}[point.values["source"]]
        assert weights == f"{first.out}/seed-0/epoch-200.safetensors"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stem", FIGURES)
def test_every_figure_runs_on_other_videos(stem, listing, runs):
    data = small(FIGURES[stem], listing=listing, folder=runs)
    file = runs / f"{stem}.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    result = CliRunner().invoke(app, ["run", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    settings = load(FIGURES[stem])
    table = json.loads((runs / stem / "table.json").read_text())
    assert table["columns"] == table_columns(settings)
    assert [row["name"] for row in table["rows"]] == list(dict.fromkeys(point.row for point in points_of(settings)))
    for row in table["rows"]:
        for column in table["columns"]:
            cell = row[column]
            if stem == "fig3":
                assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 100
                assert (cell["gain"] is None) == (row["name"] == "from scratch")
            elif stem == "fig3_lengths":
                assert cell["value"] >= 0
            elif column.startswith("largest"):
                assert cell["value"] >= 1
            elif column.startswith("share"):
                assert 0 <= cell["value"] <= 1
            else:
                assert -1 <= cell["value"] <= 1
        if stem in MAPS:
            assert {path.name for path in (runs / row["mean"]["run"].split("/")[-1]).iterdir()} >= {
                "cka.png",
                "maps.npz",
            }
