"""A frame bank: int8 rows as they are stored, several features joined, and pooling when rows are read."""

import numpy as np
import pytest
import torch

from featcache.backbones.outputs import join_maps, pool_channels, pool_space
from featcache.errors import StoreError, UnknownNameError
from featcache.loaders.bank import open_bank
from featcache.loaders.settings import BankSettings
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing import stores

BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
VIDEOS = np.array([3, 1, 1])
POSITIONS = np.array([[0, 4, 4], [2, 3, 0], [1, 1, 1]])


def write(path, **records):
    plan = stores.StorePlan(
        records={name: stores.make_record(*record) for name, record in records.items()},
        num_videos=4,
        rows_per_video=(5, 7),
        shard_rows=8,
    )
    stores.write_store(path, plan, sampling=BANK)
    return path


def bank(path, **settings):
    return open_bank(BankSettings(store=str(path), **settings))


def read(path, feature):
    """The same clips by the reader, as float32."""
    with open_store(path).feature(feature) as features:
        return torch.from_numpy(features.gather(features.video_start[VIDEOS][:, None] + POSITIONS, dequantised=True))


@pytest.mark.parametrize("storage", ["mmap", "disk", "ram", "device"])
def test_int8_rows_stay_int8_until_they_are_on_the_device(tmp_path, storage):
    source = bank(write(tmp_path / "s", map=((4, 4, 6), "int8")), storage=storage)
    (maps,) = source.clips(VIDEOS, POSITIONS, [0, 0, 0]).features
    assert (maps.values.dtype, maps.scales.dtype) == (torch.int8, torch.float32)
    assert len(maps.scales.flatten(0, 1).unique(dim=0)) > 1, "videos in shards of other scales"
    assert torch.equal(source.clips(VIDEOS, POSITIONS, [0, 0, 0]).on("cpu"), read(tmp_path / "s", "map"))


def test_int8_rows_take_a_byte_each_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "s", map=((4, 4, 6), "int8"))
    free = 2 * (5 + 7 + 5 + 7) * 4 * 4 * 6 + 2  # half of the memory may be used
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free}))
    assert bank(path).residence == "ram"
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free - 2}))
    assert bank(path).residence == "disk"


@pytest.mark.parametrize("storage", ["mmap", "disk", "ram", "device"])
def test_int8_rows_are_pooled_after_their_scales(tmp_path, storage):
    source = bank(write(tmp_path / "s", map=((4, 4, 6), "int8")), grid=2, channels=3, storage=storage)
    assert source.shape == (2, 2, 3)
    clips = source.clips(VIDEOS, POSITIONS, [0, 0, 0]).on("cpu")
    assert torch.equal(clips, pool_space(pool_channels(read(tmp_path / "s", "map"), 3), 2))


@pytest.mark.parametrize("storage", ["mmap", "disk", "ram", "device"])
@pytest.mark.parametrize("precisions", [("float16", "float16"), ("float16", "int8"), ("int8", "int8")])
def test_features_are_joined_along_the_channels_when_they_are_read(tmp_path, precisions, storage):
    first, second = precisions
    path = write(tmp_path / "s", clip=((4, 4, 6), first), mae=((3, 3, 4), second), dino=((4, 4, 2), second))
    source = bank(path, feature="clip+mae+dino", storage=storage)
    assert source.shape == (4, 4, 12)
    assert source.features == ("clip", "mae", "dino")
    plain = {name: read(path, name) for name in source.features}
    larger = torch.nn.functional.interpolate(
        plain["mae"].flatten(0, 1).permute(0, 3, 1, 2), (4, 4), mode="bilinear", align_corners=False
    )
    plain["mae"] = larger.permute(0, 2, 3, 1).unflatten(0, POSITIONS.shape)
    clips = source.clips(VIDEOS, POSITIONS, [0, 0, 0])
    assert torch.equal(clips.on("cpu"), torch.cat(list(plain.values()), dim=-1))
    assert sum(each.values.shape[-1] for each in clips.features) == 12, "as stored, one after another"
    pooled = bank(path, feature="clip+mae", grid=2, channels=5, storage=storage)
    expected = pool_space(pool_channels(torch.cat([plain["clip"], plain["mae"]], dim=-1), 5), 2)
    assert torch.equal(pooled.clips(VIDEOS, POSITIONS, [0, 0, 0]).on("cpu"), expected)


def test_joined_features_of_one_grid_equal_the_stored_join(tmp_path):
    path = write(tmp_path / "s", clip=((4, 4, 6),), dino=((4, 4, 2),))
    joined = bank(path, feature="clip+dino").clips(VIDEOS, POSITIONS, [0, 0, 0]).joined
    assert joined.dtype == torch.float16
    assert torch.equal(joined.float(), torch.cat([read(path, "clip"), read(path, "dino")], dim=-1))
    assert torch.equal(join_maps([joined[..., :6], joined[..., 6:]]), joined)


@pytest.mark.parametrize("storage", ["mmap", "disk", "ram", "device"])
@pytest.mark.parametrize("settings", [{}, {"channels": 2}])
def test_a_join_has_the_videos_that_all_features_have(tmp_path, storage, settings):
    shape = {"num_videos": 4, "rows_per_video": (5, 7), "shard_rows": 8}
    clip = stores.StorePlan(records={"clip": stores.make_record((2, 2, 4))}, **shape)
    mae = stores.StorePlan(records={"mae": stores.make_record((2, 2, 4))}, failing={1: "undecodable"}, **shape)
    with StoreWriter.open(tmp_path / "s", sampling=BANK, file_format="zarr") as writer:
        with writer.planning_lock():
            generation = stores.add_generation(writer, clip)
        stores.fill(writer, generation, clip)
        stores.fill(writer, generation, mae)
    source = bank(tmp_path / "s", feature="clip+mae", storage=storage, **settings)
    assert source.video_ids == ("v0000", "v0002", "v0003")
    videos, positions = np.array([2, 0, 1]), np.array([[0, 6], [1, 1], [4, 0]])
    maps = source.clips(videos, positions, [0, 0, 0]).on("cpu")
    store = open_store(tmp_path / "s")
    for place, video in enumerate(videos):
        name = source.video_ids[video]
        rows = [torch.from_numpy(store.feature(each).video(name)[positions[place]]) for each in ("clip", "mae")]
        expected = torch.cat(rows, dim=-1)
        assert torch.equal(maps[place], (pool_channels(expected, 2) if settings else expected).float())


def test_the_identity_of_a_join_is_its_own_and_wrong_names_are_told(tmp_path):
    path = write(tmp_path / "s", clip=((2, 2, 4),), mae=((2, 2, 4),))
    names = ("clip", "mae", "clip+mae", "mae+clip")
    assert len({bank(path, feature=name).identity for name in names}) == 4
    with pytest.raises(UnknownNameError, match=r"'mea'.*did you mean 'mae'"):
        bank(path, feature="clip+mea")
    empty = stores.StorePlan(records={"map": stores.make_record((2, 2, 4))}, num_videos=1, unusable={0: "missing"})
    stores.write_store(tmp_path / "empty", empty, sampling=BANK)
    with pytest.raises(StoreError, match=r"no video of .* has rows of 'map'"):
        bank(tmp_path / "empty")


def test_rows_that_do_not_fit_are_left_on_the_disk_and_that_is_said(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "s", map=((4, 4, 6), "int8"))
    monkeypatch.setattr("featcache.loaders.residence.free_memory", lambda: 3000)
    caplog.set_level("INFO")
    source = bank(path)
    assert source.residence == "disk"
    (line,) = caplog.messages
    assert line == (
        "rows of map (2.3 kB) are read from the disk, since 3.0 kB of memory are free; --set bank.shuffle=block would "
        "read them nearly in order"
    )
    caplog.clear()
    assert bank(path, shuffle="block").residence == "disk"
    assert "--set" not in caplog.text
    clips = source.clips(VIDEOS, POSITIONS, [0, 0, 0]).on("cpu")
    source.ahead(VIDEOS, POSITIONS, [0, 0, 0])
    assert torch.equal(clips, read(path, "map"))
