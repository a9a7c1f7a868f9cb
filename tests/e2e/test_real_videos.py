"""The whole way on real, labelled clips with real weights. Needs FEATCACHE_SHARED."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.backbones import build_backbone
from featcache.data.decoding import open_video
from featcache.data.decoding.clips import CropSize, decode_rows
from featcache.data.sampling import sample_rows
from featcache.data.transforms import normalise
from featcache.recipes import SamplingRecipe

pytestmark = pytest.mark.shared
LABELLED = ("hmdb51", "ucf101", "kinetics400")


def cli(*arguments: object) -> Any:
    """Run the command line as a user would and read its JSON."""
    command = [sys.executable, "-m", "featcache", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stores(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both backbones in both formats, from copies that are gone when the fixture returns."""
    root = tmp_path_factory.mktemp("stores")
    videos = root / "videos"
    shutil.copytree(shared / "data" / "videos", videos)
    weights = shared / "data" / "weights"
    lite0 = ("--backbone", "timm/tf_efficientnet_lite0", "--weights", weights / "tf_efficientnet_lite0.safetensors")
    i3d = ("--backbone", "i3d", "--weights", weights / "inception_i3d_rgb_k400.safetensors", "--clips", 1)
    for file_format in ("zarr", "hdf5"):
        for name, options in (("lite0", lite0), ("i3d", i3d)):
            out = root / f"{name}-{file_format}"
            result = cli("extract", videos, *options, "--format", file_format, "--out", out, "--device", "cpu")
            assert (result["videos_ok"], result["videos_failed"]) == (17, 0)
            assert cli("verify", out)["ok"]
    shutil.rmtree(videos)
    return root


@pytest.mark.parametrize("name", ["lite0", "i3d"])
def test_zarr_and_hdf5_are_equal(stores: Path, name: str) -> None:
    zarr, hdf5 = (featcache.open(stores / f"{name}-{file_format}").feature() for file_format in ("zarr", "hdf5"))
    rows = np.arange(zarr.num_rows)
    np.testing.assert_array_equal(zarr.gather(rows), hdf5.gather(rows))
    assert np.isfinite(zarr.gather(rows).astype(np.float32)).all()


@pytest.mark.parametrize("name", ["lite0", "i3d"])
def test_knn_without_videos(stores: Path, name: str) -> None:
    result = cli("probe", "knn", stores / f"{name}-zarr", "--out", stores / "runs", "-k", 1)
    (numbers,) = result["splits"].values()
    assert "leav" in result["protocol"]
    assert numbers["num_videos"] >= 10
    assert 0 <= numbers["metrics"]["top1"]["value"] <= 1


def test_i3d_knows_kinetics(shared: Path) -> None:
    network = build_backbone("i3d", weights=str(shared / "data" / "weights" / "inception_i3d_rgb_k400.safetensors"))
    assert network.classes is not None
    recipe = SamplingRecipe(num_clips=1, num_frames=32, frame_stride=2)
    expected = {
        "kinetics400/arm_wrestling": {"arm wrestling"},
        "kinetics400/cleaning_pool": {"cleaning pool"},
        "kinetics400/abseiling": {"abseiling"},
        "hmdb51/cartwheel": {"cartwheeling"},
        "ucf101/SoccerJuggling": {"juggling soccer ball"},
        "ucf101/Basketball": {"shooting basketball"},
    }
    for folder, names in expected.items():
        for path in sorted((shared / "data" / "videos" / folder).iterdir()):
            with open_video(path) as reader:
                specs = sample_rows(recipe, reader.timeline, path.name)
                size = CropSize(224, "bilinear")
                (batch,) = decode_rows(reader, specs, [size], max_batch_bytes=1 << 30)
            pixels = normalise(torch.from_numpy(batch.pixels[size]), mean=network.card.mean, std=network.card.std)
            with torch.inference_mode():
                top = network.classify(pixels)[0].topk(5).indices.tolist()
            assert names & {network.classes[index] for index in top}, (
                f"{path.name}: {[network.classes[i] for i in top]}"
            )


def test_i3d_says_what_videos_show(shared: Path) -> None:
    weights = shared / "data" / "weights" / "inception_i3d_rgb_k400.safetensors"
    videos = shared / "data" / "videos" / "kinetics400"
    found = cli("classify", videos, "--model", "i3d", "--weights", weights, "--clips", 1, "--top", 1, "--device", "cpu")
    assert found["failed"] == []
    told = {Path(video["file"]).parent.name: video["classes"][0] for video in found["videos"]}
    assert told == {name: name.replace("_", " ") for name in ("abseiling", "arm_wrestling", "cleaning_pool")}


@pytest.mark.slow
def test_clip_l14_has_256_by_1024_maps(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip"
    cli("extract", shared / "data/videos/hmdb51/wave", "--backbone", "clip-l14", "--weights", "random",
        "--output", "map", "--clips", 1, "--frames", 1, "--out", out, "--device", "cpu")  # fmt: skip
    features = featcache.open(out).feature()
    assert features.record.shape == (16, 16, 1024)
    assert features.num_rows == 3


def test_metadata_that_is_not_utf8(shared: Path) -> None:
    (path,) = (shared / "data/videos/hmdb51/cartwheel").iterdir()
    with open_video(path) as reader:
        assert reader.timeline.num_frames == 83
