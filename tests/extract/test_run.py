"""Extraction as a whole: what is stored is what a plain computation gives, whatever happened on the way."""

import dataclasses
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812

import featcache
from featcache.backbones import build_backbone
from featcache.errors import ConfigError, DiskSpaceError, FeatcacheError, RecipeMismatchError, StoreError
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.recipes import SamplingRecipe
from featcache.store.writer import StoreWriter
from tests.extract.conftest import LITE0, Make

DENSE = FeatureSettings(name="map16", backbone=LITE0, weights="random", layer="blocks.4", output="map", input_size=64)
POOLED = FeatureSettings(name="pooled", backbone=LITE0, weights="random", input_size=64)
BANK = SamplingSettings(layout="frames", frame_stride=4)


def contents(store: Path, feature: str) -> dict[str, np.ndarray]:
    """Rows of every video, by id."""
    features = featcache.open(store).feature(feature)
    return {video: features.video(video) for video in sorted(features.video_ids)}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for video in left:
        np.testing.assert_array_equal(left[video], right[video], err_msg=video)


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store that is not a lock."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and "locks" not in path.parts
    }


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
def test_features_equal_a_plain_computation(make: Make, file_format: str) -> None:
    settings = make(
        features=(POOLED.model_copy(update={"precision": "float32"}),),
        sampling=SamplingSettings(num_clips=2, num_frames=2, frame_stride=3),
        file_format=file_format,
    )
    extract(settings)
    network = build_backbone(LITE0, weights="random")
    torch.set_num_threads(1)
    store = featcache.open(settings.out)
    features = store.feature("pooled")
    for video in list(store.videos.values())[:3]:
        with av.open(str(Path(settings.source).parent / video.path)) as container:
            frames = [
                torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)
            ]
        rows = features.rows_of(video.id)
        table = features.rows.select(rows)
        clips = []
        for i in range(len(rows)):
            y0, x0, y1, x1 = (int(getattr(table, name)[i]) for name in ("y0", "x0", "y1", "x1"))
            images = [
                F.resize(frames[f][:, y0:y1, x0:x1], [64, 64], interpolation=InterpolationMode.BICUBIC, antialias=True)
                for f in table.frames[i]
            ]
            clips.append(torch.stack(images))
        # The plan's batch: 3 rows of 2 frames, padded.
        batch = torch.zeros((3, 2, 3, 64, 64), dtype=torch.uint8)
        batch[: len(clips)] = torch.stack(clips)
        pixels = (batch.flatten(0, 1).float() / 255 - 0.5) / 0.5
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            maps = network.encode(pixels, [network.layers[-1]])[network.layers[-1]].map
        assert maps is not None
        expected = maps.mean((1, 2)).unflatten(0, (3, 2)).mean(1)[: len(clips)].numpy()
        np.testing.assert_array_equal(features.gather(rows), expected)


def test_zarr_and_hdf5_hold_the_same_values(make: Make, tmp_path: Path) -> None:
    for file_format in ("zarr", "hdf5"):
        extract(make(out=str(tmp_path / file_format), file_format=file_format, features=(POOLED, DENSE)))
    for name in ("pooled", "map16"):
        assert_equal(contents(tmp_path / "zarr", name), contents(tmp_path / "hdf5", name))


def test_running_again_changes_nothing(make: Make) -> None:
    settings = make()
    first = extract(settings)
    before = files(Path(settings.out))
    again = extract(settings)
    assert files(Path(settings.out)) == before
    assert (first.rows_written, again.rows_written) == (32, 0)
    assert again.videos_ok == again.videos_total == 16


def test_growing_and_a_second_backbone_equal_one_run(make: Make, listing: Path, tmp_path: Path) -> None:
    lines = listing.read_text().splitlines()
    grown = tmp_path / "grown"
    for count in (5, 11, 16):
        part = listing.with_name(f"part{count}.jsonl")
        part.write_text("\n".join(lines[:count]) + "\n")
        extract(make(source=str(part), out=str(grown)))
    extract(make(out=str(grown), features=(DENSE,)))
    extract(make(out=str(tmp_path / "once"), features=(POOLED, DENSE)))
    for name in ("pooled", "map16"):
        assert_equal(contents(grown, name), contents(tmp_path / "once", name))
    store = featcache.open(grown)
    assert len(store.generations) == 3


def test_a_second_backbone_is_row_for_row(make: Make, filled: ExtractSettings) -> None:
    extract(make(features=(DENSE,)))
    store = featcache.open(filled.out)
    left, right = store.feature("pooled").rows, store.feature("map16").rows
    for field in dataclasses.fields(left):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


@pytest.mark.usefixtures("filled")
def test_another_recipe_is_refused_by_field(make: Make) -> None:
    with pytest.raises(RecipeMismatchError, match="num_frames"):
        extract(make(sampling=SamplingSettings(num_clips=2, num_frames=4)))
    with pytest.raises(RecipeMismatchError, match="output"):
        extract(make(features=(POOLED.model_copy(update={"output": "map"}),)))


def test_a_folder_that_is_no_store_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(FeatcacheError, match="not a featcache store"):
        extract(make(out=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_damaged_videos_are_rows(make: Make, listing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(listing.parent, folder)
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    paths = [folder / row["path"] for row in rows]
    paths[0].write_bytes(b"")
    paths[1].write_text("not a video")
    paths[2].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:-2000])
    settings = make(source=str(folder / listing.name))
    result = extract(settings)
    status = {video: state for video, state, _ in result.failures}
    assert [status.get(row["path"]) for row in rows[:3]] == ["undecodable", "undecodable", "missing"]
    assert result.videos_ok + result.videos_failed == result.videos_total == 16
    assert all(reason for _, _, reason in result.failures)
    store = featcache.open(settings.out)
    coverage = store.coverage("pooled")
    assert (coverage.ok + coverage.failed, coverage.total) == (16, 16)


def test_a_video_that_changes_after_the_scan_is_not_used(make: Make, listing: Path, tmp_path: Path) -> None:
    from featcache.data.manifest import write_parquet
    from featcache.data.scan import scan

    folder = tmp_path / "videos"
    shutil.copytree(listing.parent, folder)
    manifest = scan(folder / listing.name)
    write_parquet(manifest, tmp_path / "videos.parquet")
    changed, gone = (manifest.path_of(video) for video in manifest.videos[:2])
    changed.write_bytes(manifest.path_of(manifest.videos[5]).read_bytes())
    gone.unlink()
    settings = make(source=str(tmp_path / "videos.parquet"))
    result = extract(settings)
    assert {(video, state) for video, state, _ in result.failures} == {
        (manifest.videos[0].id, "changed"),
        (manifest.videos[1].id, "missing"),
    }

    # The next scan sees another file under the first name; the store takes it as a new version of that video.
    again = extract(make(source=str(folder / listing.name)))
    assert [(video, state) for video, state, _ in again.failures] == [(manifest.videos[1].id, "missing")]

    # A video that comes back is tried again.
    gone.write_bytes((listing.parent / manifest.videos[1].path).read_bytes())
    assert extract(make(source=str(folder / listing.name))).videos_failed == 0


def test_retry_failed_only_on_request(make: Make, listing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(listing.parent, folder)
    victim = folder / json.loads(listing.read_text().splitlines()[0])["path"]
    victim.write_bytes(b"")
    settings = make(source=str(folder / listing.name))
    assert extract(settings).videos_failed == 1
    assert extract(settings).rows_written == 0
    assert extract(settings.model_copy(update={"retry_failed": True})).videos_failed == 1
    store = featcache.open(settings.out)
    assert len(store.generations) == 2


def test_a_plan_that_fills_the_disk_is_refused(make: Make) -> None:
    settings = make(features=(DENSE,), disk_fraction=1e-9)
    with pytest.raises(DiskSpaceError, match=r"--grid 2 for 'map16' would need 57.3 kB, or raise --disk-fraction"):
        extract(settings)
    assert not Path(settings.out).exists()


def test_int8_is_close(make: Make, tmp_path: Path) -> None:
    extract(make(out=str(tmp_path / "exact"), features=(POOLED.model_copy(update={"precision": "float32"}),)))
    extract(make(out=str(tmp_path / "int8"), features=(POOLED.model_copy(update={"precision": "int8"}),)))
    exact = featcache.open(tmp_path / "exact")
    rounded = featcache.open(tmp_path / "int8")
    left = exact.feature("pooled").gather(np.arange(32))
    right = rounded.feature("pooled").gather(np.arange(32), dequantised=True)
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(left, right)


def test_frame_bank(make: Make) -> None:
    settings = make(features=(DENSE, POOLED), sampling=BANK)
    result = extract(settings)
    assert result.rows_written == 16 * 2
    store = featcache.open(settings.out)
    features = store.feature("map16")
    assert features.record.axes == ("h", "w", "c")
    np.testing.assert_array_equal(features.rows.frames[:2, 0], [0, 4])


def test_crops_of_half_the_side_are_enlarged_for_the_backbone(make: Make) -> None:
    """Each enlarged array is what its backbone gives for those pixels, beside one of the same crop as it is."""
    small = {"precision": "float32", "input_size": 32}
    features = [DENSE.model_copy(update={"name": "twice", "enlarge": 2, **small}), DENSE.model_copy(update=small)]
    settings = make(features=tuple(features), sampling=BANK)
    extract(settings)
    store = featcache.open(settings.out)
    features = store.feature("twice")
    video = next(iter(store.videos.values()))
    assert features.video(video.id).shape == (2, 4, 4, 112)
    assert store.feature("map16").video(video.id).shape == (2, 2, 2, 112)
    rows = features.rows.select(features.rows_of(video.id))
    network = build_backbone(LITE0, weights="random")
    torch.set_num_threads(1)
    with av.open(str(Path(str(settings.source)).parent / video.path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for row, got in enumerate(features.video(video.id)):
        y0, x0, y1, x1 = (int(getattr(rows, name)[row]) for name in ("y0", "x0", "y1", "x1"))
        crop = torch.from_numpy(frames[int(rows.frames[row, 0])][y0:y1, x0:x1]).permute(2, 0, 1)
        pixels = F.resize(crop, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True)
        larger = torch.nn.functional.interpolate((pixels[None].float() / 255 - 0.5) / 0.5, (64, 64), mode="bilinear")
        with torch.inference_mode():
            plain = network.encode(larger, ["blocks.4"])["blocks.4"].map
        assert plain is not None
        np.testing.assert_allclose(got, plain[0].numpy(), rtol=1e-4, atol=1e-4)


def test_encoder_reproduces_the_rows(make: Make, listing: Path, tmp_path: Path) -> None:
    settings = make(
        features=(POOLED, DENSE),
        sampling=SamplingSettings(
            temporal="random", num_clips=3, num_frames=2, spatial="random_resized", flip_probability=0.5, seed=3
        ),
    )
    extract(settings)
    row = json.loads(listing.read_text().splitlines()[2])
    copy = tmp_path / "elsewhere.mp4"
    shutil.copy(listing.parent / row["path"], copy)
    encoded = featcache.encoder(settings.out, device="cpu")(copy, video_id=row["path"])
    store = featcache.open(settings.out)
    for name in ("pooled", "map16"):
        features = store.feature(name)
        np.testing.assert_array_equal(encoded.features[name], features.video(row["path"]))
    table = features.rows.select(features.rows_of(row["path"]))
    assert [spec.flip for spec in encoded.rows.specs] == table.flip.tolist()
    assert [spec.frames for spec in encoded.rows.specs] == [tuple(frames) for frames in table.frames.tolist()]
    np.testing.assert_array_equal(encoded.rows.times[:, 0], table.t0)


def test_encoder_refuses_other_weights(filled: ExtractSettings) -> None:
    network = build_backbone(LITE0, weights="default")
    assert network.weights_hash != build_backbone(LITE0, weights="random").weights_hash
    with pytest.raises(RecipeMismatchError, match="weights"):
        featcache.encoder(filled.out, weights={LITE0: "default"}, device="cpu")
    with pytest.raises(FeatcacheError, match="did you mean"):
        featcache.encoder(filled.out, weights={"timm/tf_efficientnet_lite1": "random"}, device="cpu")
    # What the store's own settings say about weights is a hint, and one that cannot be read is no obstacle.
    (Path(filled.out) / "config" / "extract-newer.yaml").write_text("command: extract\nunheard_of: 1\n")
    assert featcache.encoder(filled.out, device="cpu").features[0].name == "pooled"


def test_encoder_of_a_store_without_a_plan(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "store", sampling=SamplingRecipe()):
        pass
    with pytest.raises(StoreError, match="has no plan yet"):
        featcache.encoder(tmp_path / "store")


def test_video_backbones_cannot_fill_a_frame_bank(make: Make) -> None:
    with pytest.raises(ConfigError, match="cannot fill a frame bank"):
        extract(make(features=(FeatureSettings(backbone="i3d", weights="random"),), sampling=BANK))


def test_progress_adds_up(make: Make) -> None:
    seen: list[tuple[int, int]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.rows_done, progress.shards_done))
        assert progress.rows_done <= progress.num_rows

    result = extract(make(), on_progress=watch)
    assert seen == sorted(seen)
    assert seen[-1] == (32, 4)
    assert result.seconds >= result.encode_seconds > 0


def test_results_do_not_depend_on_workers_or_order(make: Make, extracted: Path, tmp_path: Path) -> None:
    extract(
        make(
            out=str(tmp_path / "two"),
            runtime=RuntimeSettings(device="cpu", threads=1, encode_batch=3, decode_workers=2, ahead_megabytes=1),
        )
    )
    one, two = files(extracted), files(tmp_path / "two")
    arrays = [name for name in one if not name.startswith("config/")]
    assert {name: one[name] for name in arrays} == {name: two[name] for name in arrays}
