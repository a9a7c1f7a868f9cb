"""Pictures: the arithmetic of heat and blending, the map that is shown, and whole commands on generated clips."""

import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch.nn import functional
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load, settings_class
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, ManifestError, UnknownNameError, VideoError
from featcache.extract.settings import SamplingSettings
from featcache.networks.settings import TmmSettings
from featcache.networks.tmm import Tmm
from featcache.report.activation_maps import LABEL_WIDTH, branch_maps, draw_activation, heat, montage, overlay
from featcache.report.cost import draw_cost
from featcache.report.figure_settings import ActivationFigureSettings, CostFigureSettings
from featcache.report.plots import write_table
from featcache.report.tables import Cell, Table
from featcache.shipped import load_pipeline
from featcache.training.loop import trained_state


def test_heat_is_the_channel_mean_scaled_frame_by_frame():
    maps = torch.tensor([[[[0.0, 2.0], [3.0, 3.0]], [[5.0, 5.0], [1.0, 1.0]]], [[[7.0, 7.0]] * 2] * 2])
    assert heat(maps)[0].tolist() == [[0.0, 0.5], [1.0, 0.0]]
    assert heat(maps)[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]  # the same everywhere


def test_blending_is_six_tenths_frame_and_four_tenths_jet():
    frame = np.array([[[[100, 200, 50], [0, 0, 0]], [[255, 255, 255], [10, 20, 30]]]], np.uint8)
    heats = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    # JET: 0 is dark blue (0, 0, 0.5), 1 dark red (0.5, 0, 0); its middle is a light green.
    assert overlay(frame, heats)[0, 0, 0].tolist() == [60, 120, 81]
    assert overlay(frame, heats)[0, 1, 0].tolist() == [204, 153, 153]
    plain = np.rint(0.6 * frame[0] + 0.4 * 255 * colormaps["jet"](heats[0].numpy())[..., :3])
    assert np.array_equal(overlay(frame, heats)[0], plain)


def test_heat_is_enlarged_bicubically_and_stays_within_its_range():
    heats = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    frames = np.zeros((2, 24, 24, 3), np.uint8)
    large = functional.interpolate(heats[:, None], (24, 24), mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)
    assert np.array_equal(overlay(frames, heats), np.rint(0.4 * 255 * colormaps["jet"](large.numpy())[..., :3]))


def test_the_map_of_a_module_is_its_first_branch_before_the_sum():
    settings = TmmSettings(hidden=4, out=6, num_blocks=2, temporal_kernel=3)
    tmm = Tmm(settings, width_in=5, grid=4).eval()
    maps = torch.randn(3, 4, 4, 5, generator=torch.Generator().manual_seed(0))
    block, clip = tmm.blocks[0], maps.permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        inner = functional.relu(block.b_bn(block.b(functional.relu(block.a_bn(block.a(clip))))))
        expected = block.c_bn(block.c(inner))[0].permute(1, 2, 3, 0)
    assert torch.equal(branch_maps(tmm, maps), expected)
    assert not any(module._forward_hooks for module in tmm.modules())
    with pytest.raises(ConfigError, match="r3d"):
        branch_maps(Tmm(TmmSettings(kind="skip"), width_in=5, grid=4), maps)


def test_a_montage_has_a_row_a_name():
    picture = montage({"a": np.zeros((3, 16, 16, 3), np.uint8), "b": np.full((3, 16, 16, 3), 255, np.uint8)})
    assert picture.size == (LABEL_WIDTH + 3 * 18, 2 * 18)
    assert picture.getpixel((LABEL_WIDTH + 20, 3)) == (0, 0, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ``pipelines/advise.py`` leaves: clips, their store and runs; two image models side by side."""
    folder = tmp_path_factory.mktemp("figures")
    quick = {"epochs": 1, "batch_size": 8, "tensorboard": False, "device": "cpu", "threads": 1}
    load_pipeline("advise").run(parse(settings_class("advise"), {
        "out": str(folder),
        "motion": {
            "num_frames": 8, "size": 64, "num_unseen_pictures": 20, "train_per_picture_motion": 1,
            "test_unseen_per_picture_motion": 0,
        },
        "feature": {
            "backbone": "timm/test_resnet+timm/test_efficientnet", "weights": "random", "layer": "last",
            "output": "map", "input_size": 64,
        },
        "extraction": {
            "sampling": {"layout": "frames", "num_crops": 2, "crop_fraction": 0.5},
            "runtime": {"device": "cpu", "threads": 1},
        },
        "pretraining": {"tmm": {"hidden": 4, "out": 8, "num_blocks": 1, "head_hidden": 8}, "training": quick},
        "finetuning": {"training": quick},
        "keep_videos": True,
    }))  # fmt: skip
    return folder


def test_the_pipeline_leaves_results_table_and_picture(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["table"]["columns"] == ["true", "reversed", "shuffled", "one frame"]
    assert [row["name"] for row in result["table"]["rows"]] == ["pretrained, test_seen", "scratch, test_seen"]
    assert set(result["finetuned"]["delta"]) == {"test_seen"}
    arms = [trained / "finetuned" / arm / "all" / "seed-0" for arm in ("pretrained", "scratch")]
    shapes = [trained_state(arm).facts["tmm"] for arm in arms]
    assert shapes[0] == shapes[1]
    assert shapes[0]["hidden"] == 4
    assert result["extract"]["videos_ok"] == 32
    for name in ("table.md", "table.json", "activation.png", "config.yaml"):
        assert (trained / name).stat().st_size > 0
    own = load(trained / "config.yaml")
    bank = own.extraction.model_copy(update={"sampling": SamplingSettings(layout="frames")})
    with pytest.raises(ConfigError, match=r"another extraction\.sampling; choose another out"):
        load_pipeline("advise").run(own.model_copy(update={"extraction": bank}))


def settings(folder, **changes):
    return parse(
        ActivationFigureSettings,
        {
            "bank": {"store": str(folder / "store")},
            "run": str(folder / "finetuned"),
            "video": "train/pan_up/grass_000.mp4",
            "num_frames": 4,
            "size": 48,
            "out": str(folder / "maps.png"),
            **changes,
        },
    )


def test_activation_maps_of_a_run(trained):
    own = settings(trained)
    facts = draw_activation(own).facts
    assert facts["rows"] == ["frames", "image model", "pretrained", "scratch"]
    assert facts["frames"] == [0, 2, 4, 7]
    with Image.open(trained / "maps.png") as picture:
        assert picture.size == (LABEL_WIDTH + 4 * 50, 4 * 50)
        tiles = np.asarray(picture)
    assert not np.array_equal(tiles[:48, LABEL_WIDTH:], tiles[50:98, LABEL_WIDTH:])
    assert not np.array_equal(tiles[100:148, LABEL_WIDTH:], tiles[150:198, LABEL_WIDTH:])


def test_the_command_and_its_yaml_draw_the_same(trained, tmp_path):
    own = settings(trained, run=str(trained / "pretext"))
    (tmp_path / "figure.yaml").write_text(to_yaml(own))
    assert load(tmp_path / "figure.yaml") == own
    result = CliRunner().invoke(app, ["run", str(tmp_path / "figure.yaml"), "--json"], catch_exceptions=False)
    assert json.loads(result.output)["rows"] == ["frames", "image model", "module"]
    first = (trained / "maps.png").read_bytes()
    arguments = ["--run", own.run, "--video", own.video, "--frames", "4", "--size", "48", "--out", own.out]
    CliRunner().invoke(app, ["figure", "activation", own.bank.store, *arguments], catch_exceptions=False)
    assert (trained / "maps.png").read_bytes() == first


def test_a_video_that_is_gone_changed_or_unknown_is_a_sentence(trained, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown video"):
        draw_activation(settings(trained, video="nobody"))
    with pytest.raises(ManifestError, match="give --videos DIR"):
        draw_activation(settings(trained, videos=str(tmp_path)))
    moved = shutil.copytree(trained / "videos", tmp_path / "videos")
    for path in moved.rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VideoError, match="changed"):
        draw_activation(settings(trained, videos=str(moved)))
    with pytest.raises(ConfigError, match=r"\.png"):
        settings(trained, out="maps.gif")


def write(folder, name, cells):
    columns = tuple(next(iter(cells.values())))
    write_table(
        Table(title="T", columns=columns, rows=tuple((row, None, "", own) for row, own in cells.items())), folder / name
    )
    return str(folder / name)


def test_rows_of_one_name_are_one_point(tmp_path):
    cost = write(tmp_path, "cost", {
        "a": {"MACs (G)": Cell(value=2.9), "GB": Cell(value=None)},
        "b": {"MACs (G)": Cell(value=66.0), "GB": Cell(value=4.0)},
        "free": {"MACs (G)": Cell(value=0.0), "GB": Cell(value=None)},
    })  # fmt: skip
    accuracy = write(
        tmp_path, "accuracy", {name: {"top-1": Cell(value=50.0 + place)} for place, name in enumerate("ab")}
    )
    own = parse(
        CostFigureSettings, {"tables": [cost, accuracy + "/table.json"], "memory": "GB", "out": str(tmp_path / "c.png")}
    )
    points = draw_cost(own).points
    assert [(point.name, point.cost, point.accuracy, point.memory) for point in points] == [
        ("a", 2.9, 50.0, None), ("b", 66.0, 51.0, 4.0)
    ]  # fmt: skip
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (1260, 768)
    arguments = ["figure", "cost", cost, accuracy, "--memory", "GB", "--out", str(tmp_path / "d.png")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "d.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    with pytest.raises(UnknownNameError, match="column"):
        draw_cost(own.model_copy(update={"accuracy": "top-2"}))
    strangers = write(tmp_path, "strangers", {"z": {"top-1": Cell(value=1.0)}})
    with pytest.raises(ConfigError, match="no row has"):
        draw_cost(own.model_copy(update={"tables": (cost, strangers)}))
    with pytest.raises(ConfigError, match="no table"):
        draw_cost(own.model_copy(update={"tables": (str(tmp_path / "nowhere"),)}))
