"""What all exports share: they appear whole or not at all, say what they hold, and run from flags and YAML."""

import csv
import errno
import json
from functools import partial

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load, settings_class
from featcache.config import parse, to_assignments, to_yaml
from featcache.errors import ConfigError, DiskSpaceError, ExchangeError, StoreError, UnknownNameError
from featcache.exchange import npy
from featcache.exchange.settings import EXPORT_FORMATS, IMPORT_FORMATS, DeclaredFeature, ExportSettings, ImportSettings
from featcache.recipes import FeatureRecipe
from featcache.store.reader import open_store
from tests.exchange.stores import make_store, send


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("exporting") / "mine")


def test_every_export_lists_all_videos_and_its_recipe(mine, tmp_path):
    for format_ in ("npy", "opentad"):
        send(mine, tmp_path / format_, format_)
        listed = list(csv.DictReader((tmp_path / format_ / "videos.csv").read_text().splitlines()))
        assert [row["id"] for row in listed] == list(open_store(mine).videos)
        assert {row["id"]: row["status"] for row in listed if row["num_rows"] == "0"} == {
            "v0003": "timeout",
            "v0005": "missing",
        }
        recipe = yaml.safe_load((tmp_path / format_ / "recipe.yaml").read_text())
        assert recipe["feature"]["weights_hash"] == "sha256:0"
        again = parse(ExportSettings, yaml.safe_load((tmp_path / format_ / "export.yaml").read_text()))
        assert again.format == format_


def test_a_folder_that_is_not_empty_is_refused(mine, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"not empty \(it holds 'mine.txt'\)"):
        send(mine, out, "npy")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file or a link"):
        send(mine, tmp_path / "file", "npy")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    send(mine, out, "npy")  # an empty one is filled
    assert (out / "recipe.yaml").is_file()


def test_an_export_that_fails_leaves_nothing(mine, tmp_path, monkeypatch):
    """Whether the disk fills up or a writer breaks, no folder is left and the sentence says what to do."""

    def break_down(error, video, rows):
        raise error

    for error, expected, message in (
        (OSError(errno.ENOSPC, "full"), DiskSpaceError, r"cannot write .*out \(No space left.*run the same command"),
        (OSError(errno.EIO, "broken"), OSError, "broken"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ):
        monkeypatch.setattr(npy, "facts_of", partial(break_down, error))
        with pytest.raises(expected, match=message):
            send(mine, tmp_path / "out", "npy")
        assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_must_be_there(mine, tmp_path):
    for settings, error in (
        ({"feature": "b"}, "unknown feature 'b'"),
        ({"split": "tran"}, "did you mean 'train'"),
        ({"videos": ("v9999",)}, "unknown video 'v9999'"),
    ):
        with pytest.raises(UnknownNameError, match=error):
            send(mine, tmp_path / "out", "npy", **settings)
    with pytest.raises(ExchangeError, match="no video to export"):
        send(mine, tmp_path / "out", "npy", videos=())
    assert not (tmp_path / "out").exists()


def test_settings_round_trip_through_yaml_and_flags():
    for settings in (
        ImportSettings(source="a", format="hf", out="s", feature=DeclaredFeature(backbone="x", mean=(0, 1, 2))),
        ImportSettings(source="a", format="npy", out="s", feature={"backbone": "x"}, sampling={"num_frames": 16}),
        ExportSettings(store="s", format="parquet", out="o", videos=("a", "b")),
    ):
        data = yaml.safe_load(to_yaml(settings))
        assert parse(type(settings), data) == settings
        assert set(data) == set(type(settings).model_fields)
        assert to_assignments(settings)
        assert settings_class(settings.command) is type(settings)


def test_a_declaration_covers_the_recipe_and_is_not_taken_for_a_hash():
    assert set(FeatureRecipe.__slots__) <= set(DeclaredFeature.model_fields)
    for text in ("sha", "sha256:", "declared:", "rgb"):
        with pytest.raises(ConfigError, match="weights_hash is"):
            parse(DeclaredFeature, {"backbone": "x", "weights_hash": text})
    with pytest.raises(ConfigError, match="did you mean 'num_frames'"):
        parse(
            ImportSettings,
            {"source": "a", "format": "npy", "out": "s", "feature": {"backbone": "x"}, "sampling": {"num_frame": 1}},
        )


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_commands_repeat_themselves(mine, tmp_path):
    done = run("export", mine, "--format", "npy", "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["num_rows"] == 21
    done = run("import", tmp_path / "out", "--format", "npy", "--out", tmp_path / "s", "--json")
    assert json.loads(done.stdout)["unknown"] == []
    config = next((tmp_path / "s" / "config").iterdir())
    assert load(config).command == "import"
    assert "0 written now, 21 in all" in run("run", config).stdout
    done = run("run", tmp_path / "out" / "export.yaml", "--set", f"out={tmp_path / 'again'}")
    assert done.exit_code == 0
    first, again = ((tmp_path / name / "v0000.npy").read_bytes() for name in ("out", "again"))
    assert first == again


def test_flags_that_say_nothing_useful_are_sentences(tmp_path):
    for arguments, message in (
        (("import", tmp_path, "--format", "np", "--out", "s"), "unknown format 'np'; did you mean 'npy'"),
        (("export", tmp_path, "--format", "parket", "--out", "s"), "did you mean 'parquet'"),
        (("import", tmp_path, "--format", "npy", "--out", "s"), "nothing says who computed the arrays"),
    ):
        assert message in str(run(*arguments).exception)
    assert set(IMPORT_FORMATS) < set(EXPORT_FORMATS)
    text = run(
        "import", "in", "--format", "npy", "-o", "s", "-b", "x", "-w", "rgb", "--fps", 30, "--print-config"
    ).stdout
    data = yaml.safe_load(text)
    assert data["feature"]["weights_hash"] == "declared:rgb"
    assert data["timing"]["fps"] == 30
    assert data["sampling"]["temporal"] == "imported"
