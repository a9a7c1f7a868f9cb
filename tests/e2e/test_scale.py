"""SCALE on real clips with a real backbone, from decoding to every probe. Needs FEATCACHE_SHARED."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.loaders.clip_sets import open_clip_sets
from featcache.loaders.settings import ClipSetSettings
from featcache.store.reader import open_store

pytestmark = [pytest.mark.shared, pytest.mark.timeout(1200)]

TEST_VIDEOS = (
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
    "ucf101/SoccerJuggling/v_SoccerJuggling_g24_c01.avi",
    "kinetics400/arm_wrestling/demo.mp4",  # of a class that no training video has
)
NUM_FRAMES, SIDE = 8, 112  # half the published frames and side, for time
TINY_HEADS = ("heads.hidden=64", "heads.target_hidden=64")
PROBES: Mapping[str, tuple[str, ...]] = {
    "knn": (),
    "knn --model": (),
    "linear": ("linear.seeds=[0,1]", "linear.epochs=5"),
    "mlp": (),
    "transformer": (),
    "scale-linear": (),
    "scale-ft": (),
}


def cli(*words: object) -> Any:
    """Run the command line in this process and read its JSON."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def assignments(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def listing(videos: Path) -> Path:
    """All files, those of ``formats`` without a label; three of the others are the test split."""
    path = videos / "listing.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for video in sorted(each for each in videos.rglob("*") if each.is_file() and each != path):
            name = video.relative_to(videos).as_posix()
            label = "" if name.startswith("formats/") else video.parent.name
            writer.writerow([name, label, "test" if name in TEST_VIDEOS else "train"])
    return path


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of clips and a pre-trained predictor; the copies of the videos are gone before it is trained."""
    root = tmp_path_factory.mktemp("scale")
    videos = root / "videos"
    shutil.copytree(shared / "data" / "videos", videos)
    weights = shared / "data" / "weights" / "inception_i3d_rgb_k400.safetensors"
    extracted = cli(
        "extract", listing(videos), "--backbone", "i3d", "--weights", weights, "--sampling", "scale",
        "--clips", 4, "--frames", NUM_FRAMES, "--device", "cpu", "--out", root / "store",
        *assignments("sampling.test.num_clips=1", f"features.0.input_size={SIDE}"),
    )  # fmt: skip
    assert (extracted["videos_ok"], extracted["videos_failed"], extracted["rows_total"]) == (17, 0, 14 * 4 + 3 * 3)
    shutil.rmtree(videos)
    cli(*pretraining(root))
    return root


def pretraining(root: Path) -> list[object]:
    keys = assignments("clips_per_set=2", "training.tensorboard=false", "training.threads=1", *TINY_HEADS)
    words: list[object] = ["train", "scale", root / "store", "--epochs", 4, "--batch-size", 7, "--seed", 0, "--seed", 1]
    return [*words, "--device", "cpu", "--out", root / "run", *keys]


def test_clips_are_stored_with_their_places(root: Path) -> None:
    store = open_store(root / "store")
    features = store.feature()
    rows = features.rows.select(np.arange(features.num_rows))
    for number, video_id in enumerate(features.video_ids):
        record = store.videos[video_id]
        mine = rows.video == number
        is_test = record.split == "test"
        assert mine.sum() == (3 if is_test else 4)
        assert not (is_test and rows.flip[mine].any())
        assert (rows.y1[mine] <= record.height).all()
        assert (rows.x1[mine] <= record.width).all()
        assert (rows.t1[mine] > rows.t0[mine]).all()
        assert np.allclose(rows.y1[mine] - rows.y0[mine], rows.x1[mine] - rows.x0[mine], atol=1)  # square crops
        if is_test:  # the whole short side, three places along the long one
            assert len(set(rows.x0[mine].tolist())) == 3
            assert set((rows.y1[mine] - rows.y0[mine]).tolist()) == {record.height}


@pytest.mark.parametrize("form", ["box6", "code7"])
def test_positions_are_shares_of_each_video(root: Path, form: Any) -> None:
    sets = open_clip_sets(ClipSetSettings(store=str(root / "store")), form=form)
    positions = sets.positions.numpy()
    box = positions[:, -6:]
    assert np.isfinite(positions).all()
    assert ((box >= 0) & (box <= 1)).all()
    assert (box[:, 5] > box[:, 4]).all()
    is_test = np.repeat(np.isin(sets.video_ids, TEST_VIDEOS), sets.num_clips)
    assert is_test.sum() == 9
    if form == "code7":
        assert (positions[is_test, 0] == -1).all()
        assert set(positions[~is_test, 0].tolist()) == {0.0, 1.0}


def test_pretraining_sees_training_videos_alone(root: Path) -> None:
    result = json.loads((root / "run" / "result.json").read_bytes())
    assert (result["num_videos"], result["num_left_out"]) == (14, 0)
    assert result["num_parameters"] == 1_452_544  # 1,024 channels, box6
    assert result["seeds"].keys() == {"0", "1"}
    assert all(np.isfinite(line["loss"]) and line["step"] == 4 * 2 for line in result["seeds"].values())
    assert result["seeds"]["0"]["loss"] != result["seeds"]["1"]["loss"]
    sets = open_clip_sets(ClipSetSettings(store=str(root / "store")), only_training=True)
    assert not set(sets.video_ids) & set(TEST_VIDEOS)


def test_training_again_changes_nothing(root: Path) -> None:
    files = {path: path.read_bytes() for path in sorted((root / "run").rglob("*")) if path.is_file()}
    cli(*pretraining(root))
    assert {path: path.read_bytes() for path in sorted((root / "run").rglob("*")) if path.is_file()} == files


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_without_videos(root: Path, name: str) -> None:
    probe, *model = name.split(" ")
    takes_model = bool(model) or probe.startswith("scale-")
    if not (own := PROBES[name]) and probe != "knn":
        key = probe.replace("-", "_")
        own = (f"{key}.training.lrs=[1e-3]", f"{key}.training.seeds=[0,1]", f"{key}.training.epochs=4")
    out = root / "probes" / name.replace(" ", "")
    words = [*(("--model", root / "run") if takes_model else ()), *assignments(*own), "--out", out]
    result = cli("probe", probe, root / "store", *words)
    coverage = {"ok": 14, "failed": 0, "total": 14, "unlabelled": 7}
    assert result["train"] == coverage
    assert result["num_classes"] == 6
    (numbers,) = result["splits"].values()
    assert (numbers["num_videos"], numbers["num_unseen"]) == (3, 1)
    assert 0 <= numbers["metrics"]["top1"]["value"] <= 2 / 3  # the one of an unknown class cannot be right
    assert json.loads((out / "result.json").read_bytes())["splits"] == result["splits"]
