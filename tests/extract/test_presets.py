"""The presets end to end: real clips through a tiny backbone, training and test videos each with their views."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import featcache
from featcache.backbones.outputs import to_records
from featcache.config import parse, to_yaml
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.sampling import playback_rate_indices, sample_rows
from featcache.data.types import Timeline
from featcache.errors import FeatcacheError, UnknownNameError
from featcache.extract.estimate import estimate
from featcache.extract.prepare import prepare
from featcache.extract.presets import PRESETS, with_preset
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from tests.extract.conftest import LITE0

# A test wants few and small forwards; everything else is the preset's own.
QUICK = {
    "scale": {"num_clips": 3, "num_frames": 2},
    "scale-aug": {"num_clips": 3, "num_frames": 2},
    "scale-ssv2": {"num_clips": 3, "num_frames": 2},
    "advise": {"num_crops": 3},
}
JITTER = ("brightness", "contrast", "saturation", "hue")
ROWS = {"scale": (3, 15), "scale-aug": (3, 15), "scale-ssv2": (3, 6), "advise": (8 * 3, 8 * 3)}


@pytest.fixture(scope="module")
def few(scanned: Path) -> Path:
    """A manifest of two training and two test clips of 8 frames."""
    manifest = read_parquet(scanned)
    videos = sorted(manifest.videos, key=lambda video: video.split != "train")
    path = scanned.with_name("few.parquet")
    write_parquet(Manifest(root=manifest.root, videos=(*videos[:2], *videos[-2:])), path)
    return path


def settings_of(preset: str, source: Path, out: Path, **sampling: object) -> ExtractSettings:
    data = {
        "source": str(source),
        "out": str(out),
        "features": [{"name": "f", "backbone": LITE0, "weights": "random", "input_size": 64}],
        "sampling": {**QUICK[preset], **sampling},
        "runtime": {"device": "cpu", "threads": 1, "encode_batch": 4},
        "shard_rows": 8,
    }
    return parse(ExtractSettings, with_preset(preset, data))


def everything(store: Path) -> dict[str, np.ndarray]:
    features = featcache.open(store).feature("f")
    return {video: features.video(video) for video in sorted(features.video_ids)}


Stores = Callable[[str], ExtractSettings]


@pytest.fixture(scope="module")
def stores(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Settings of an extracted store by preset, each made once."""

    @functools.cache
    def build(preset: str) -> ExtractSettings:
        settings = settings_of(preset, few, tmp_path_factory.mktemp("stores") / preset)
        assert extract(settings).rows_written == sum(2 * rows for rows in ROWS[preset])
        return settings

    return build


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "preset", [pytest.param("scale", marks=slow), "scale-aug", pytest.param("scale-ssv2", marks=slow), "advise"]
)
def test_rows_of_each_split_and_encoder_to_the_bit(preset: str, few: Path, stores: Stores) -> None:
    settings = stores(preset)
    store = featcache.open(settings.out)
    features = store.feature("f")
    assert features.record.axes == (("h", "w", "c") if preset == "advise" else ("c",))
    encode = featcache.encoder(settings.out, device="cpu")
    manifest = read_parquet(few)
    recoloured = set()
    for video in manifest.videos:
        is_training = video.split == "train"
        rows = features.rows_of(video.id)
        assert len(rows) == ROWS[preset][not is_training]
        table = features.rows.select(rows)
        encoded = encode(manifest.path_of(video), video_id=video.id, split=video.split)
        np.testing.assert_array_equal(encoded.features["f"], features.video(video.id))
        boxes = np.stack([table.y0, table.x0, table.y1, table.x1], 1)
        specs = encoded.rows.specs
        assert [dataclasses.astuple(spec.box) for spec in specs] == [tuple(box) for box in boxes.tolist()]
        assert [spec.flip for spec in specs] == table.flip.tolist()
        recoloured |= {video.split for spec in specs if spec.color}
        if not is_training:
            assert not table.flip.any()
            assert (boxes[:, 2:] - boxes[:, :2] == 64).all(), "the whole short side"
    assert recoloured == ({"train"} if preset in ("scale-aug", "advise") else set())
    with pytest.raises(FeatcacheError, match="another sampling recipe: test"):
        prepare(settings_of(preset, few, Path(settings.out), test=None))
    assert parse(ExtractSettings, with_preset(preset, _yaml(settings))) == settings, "the YAML says it all"


def _yaml(settings: ExtractSettings) -> dict[str, object]:
    import yaml

    data: dict[str, object] = yaml.safe_load(to_yaml(settings))
    return data


def test_features_are_of_recoloured_crops(few: Path, stores: Stores) -> None:
    """A crop of the bank equals the frames cropped, resized and recoloured by hand with torchvision, all alike."""
    settings = stores("advise")
    store = featcache.open(settings.out)
    features = store.feature("f")
    encode = featcache.encoder(settings.out, device="cpu")
    (bound,) = encode.features
    colors = set()
    for video in [video for video in store.videos.values() if video.split == "train"]:
        with av.open(str(few.parent / video.path)) as container:
            frames = [
                torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)
            ]
        timeline = Timeline(pts_seconds=np.arange(8) / 8, duration_seconds=1.0, height=64, width=64)
        specs = sample_rows(store.sampling.for_split("train"), timeline, video.id)
        for crop in range(3):
            rows = features.rows_of(video.id, crop=crop)
            assert len({(spec.box, spec.flip, spec.color) for spec in specs[crop::3]}) == 1
            box, color = specs[crop].box, specs[crop].color
            assert crop > 0 or not color
            colors.add(color)
            pixels = torch.stack([frame[:, box.y0 : box.y1, box.x0 : box.x1] for frame in frames])
            pixels = v2.functional.resize(pixels, [64, 64], antialias=True)
            if color:
                params = {f"{step.name}_factor": step.amount for step in color}
                order = torch.tensor([JITTER.index(step.name) for step in color])
                pixels = v2.ColorJitter().transform(pixels, {"fn_idx": order, "hue_factor": 0.0, **params})
            normal = v2.functional.normalize(pixels / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                maps = bound.backbone.encode(normal, [bound.recipe.layer])[bound.recipe.layer]
            plain = to_records(maps, bound.recipe, num_frames=1).numpy()
            stored = features.gather(rows).astype(np.float32)
            error = np.linalg.norm(stored - plain) / np.linalg.norm(plain)
            assert error < 0.01  # bfloat16 rounds differently in a batch of another size
    assert colors > {()}, "some draws change colours"


@pytest.mark.parametrize("preset", ["scale-aug", pytest.param("advise", marks=slow)])
def test_workers_and_order_change_nothing(preset: str, few: Path, stores: Stores, tmp_path: Path) -> None:
    manifest = read_parquet(few)
    write_parquet(Manifest(root=manifest.root, videos=manifest.videos[::-1]), few.with_name("reversed.parquet"))
    other = settings_of(preset, few.with_name("reversed.parquet"), tmp_path / "two")
    extract(
        other.model_copy(update={"runtime": other.runtime.model_copy(update={"decode_workers": 2}), "shard_rows": 5})
    )
    one, two = everything(Path(stores(preset).out)), everything(tmp_path / "two")
    assert one.keys() == two.keys()
    for video in one:
        np.testing.assert_array_equal(one[video], two[video])


def test_clips_of_one_crop(stores: Stores) -> None:
    features = featcache.open(stores("advise").out).feature("f")
    assert features.num_crops.tolist() == [3] * 4
    video = features.video_ids[1]
    for crop in range(3):
        rows = features.rows_of(video, crop=crop)
        table = features.rows.select(rows)
        assert table.frames[:, 0].tolist() == list(range(8))
        assert table.clip.tolist() == [t * 3 + crop for t in range(8)]
        assert len({tuple(box) for box in np.stack([table.y0, table.x0, table.y1, table.x1], 1).tolist()}) == 1
        assert (np.diff(table.t0) > 0).all()
        clip = features.clips(
            rows[playback_rate_indices(len(rows), start=1, num_frames=3, base_stride=1, rate=2)][None]
        )
        assert clip.shape == (1, 3, *features.record.shape)
        np.testing.assert_array_equal(clip[0, 2], features[int(rows[5])])
    with pytest.raises(IndexError, match=r"crop 3 of .* is not in \[0, 3\)"):
        features.rows_of(video, crop=3)


@slow
def test_a_store_grows_by_videos_of_both_kinds(few: Path, tmp_path: Path) -> None:
    manifest = read_parquet(few)
    assert estimate(settings_of("scale", few, tmp_path / "grown")).rows_to_do == 2 * 3 + 2 * 15
    part = few.with_name("part.parquet")
    write_parquet(Manifest(root=manifest.root, videos=manifest.videos[1:3]), part)
    extract(settings_of("scale", part, tmp_path / "grown"))
    assert estimate(settings_of("scale", few, tmp_path / "grown")).rows_to_do == 3 + 15
    extract(settings_of("scale", few, tmp_path / "grown"))
    extract(settings_of("scale", few, tmp_path / "whole"))
    grown, whole = everything(tmp_path / "grown"), everything(tmp_path / "whole")
    assert grown.keys() == whole.keys()
    for video in whole:
        np.testing.assert_array_equal(grown[video], whole[video])
    features = featcache.open(tmp_path / "grown").feature("f")
    crops = dict(zip(features.video_ids, features.num_crops.tolist(), strict=True))
    assert crops == {video.id: 1 if video.split == "train" else 3 for video in manifest.videos}
    assert len(features.rows_of(manifest.videos[2].id, crop=1)) == 5


def test_flags_stand_above_a_preset_part_by_part() -> None:
    given = {
        "features": [{"backbone": "i3d", "output": "mean"}],
        "sampling": {"num_crops": 2, "test": {"num_crops": 1}},
    }
    filled = with_preset("advise", given)
    assert filled["sampling"]["num_crops"] == 2
    assert filled["sampling"]["test"] == {**PRESETS["advise"].sampling["test"], "num_crops": 1}
    assert filled["features"][0]["output"] == "mean"
    assert filled["features"][0]["input_size"] == 224
    assert filled["features"][0]["compute"] == "bfloat16"
    assert with_preset("advise", {**given, "sampling": {"color": None}})["sampling"]["color"] is None
    with pytest.raises(UnknownNameError, match="did you mean 'scale-ssv2'"):
        with_preset("scale-ssv", given)
