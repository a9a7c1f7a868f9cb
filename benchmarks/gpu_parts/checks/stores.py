"""From a store to the device and back, equal to the bit because nothing is computed; extraction and its encoder."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from featcache.extract.encoder import encoder
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.loaders.bank import open_bank
from featcache.loaders.clip_sets import open_clip_sets, placed
from featcache.loaders.dataset import to_device, torch_dataset
from featcache.loaders.settings import BankSettings, ClipSetSettings
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store
from gpu_parts.checks.comparing import FLOAT32, Check, distance, same, within
from gpu_parts.media import make_clips

BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
SHAPES = {"float16": (24,), "float32": (2, 3, 8), "int8": (16,)}


def gathered(device: str, folder: Path) -> str:
    """Whole arrays on the device, and batches of a loader through pinned memory."""
    for file_format in ("zarr", "hdf5"):
        path = folder / file_format
        records = {name: make_record(shape, name) for name, shape in SHAPES.items()}
        write_store(path, StorePlan(records=records), file_format=file_format)
        store = open_store(path)
        for name in SHAPES:
            features = store.feature(name)
            wanted = features.gather(np.arange(features.num_rows), dequantised=True).astype(np.float32)
            table = to_device(features, device)
            assert table.device.type == torch.device(device).type, f"{table.device} is not {device}"
            same(table.cpu().numpy(), wanted, f"{name} in {file_format}")
        features = store.feature("float16")
        labels = {video: name for video, name in store.labels("label").items() if video in features.video_ids}
        loader = DataLoader(torch_dataset(features, labels), batch_size=7, pin_memory=device != "cpu")
        rows = torch.cat([batch.to(device, non_blocking=True) for batch, _ in loader])
        same(rows.float().cpu().numpy(), to_device(features, "cpu").numpy(), f"batches in {file_format}")
    return "arrays and batches equal"


def maps_on_device(device: str, folder: Path) -> str:
    """Clips of a bank whose two features are joined on the device, int8 with its scales and float16 beside it."""
    records = {"small": make_record((4, 4, 6), "int8"), "half": make_record((4, 4, 3))}
    plan = StorePlan(records=records, rows_per_video=(9,), shard_rows=32)
    write_store(folder / "bank", plan, sampling=BANK)
    bank = open_bank(BankSettings(store=str(folder / "bank"), feature="small+half"))
    maps = bank.clips(np.array([0, 4, 2]), np.array([[0, 3], [8, 8], [5, 1]]), [0, 0, 0])
    moved = maps.on(device)
    assert moved.device.type == torch.device(device).type
    return same(moved.cpu().numpy(), maps.on("cpu").numpy(), "maps")


def sets_on_device(device: str, folder: Path) -> str:
    """Clips and positions on the device, as SCALE reads them."""
    write_store(folder / "store", StorePlan(records={"clips": make_record((24,))}, rows_per_video=(6,)))
    sets = open_clip_sets(ClipSetSettings(store=str(folder / "store")), form="code7")
    moved = placed(sets, storage="device", device=torch.device(device))
    assert moved.features.device.type == moved.positions.device.type == torch.device(device).type
    return same(moved.features.cpu().numpy(), sets.features.numpy(), "clips")


def extracted(device: str, folder: Path) -> str:
    """A store made on the device against one made on the CPU, and its encoder against the store, to the bit."""
    videos = make_clips(folder / "videos", 3, num_frames=24, width=96, height=64)
    rows = {}
    for place in ("cpu", device) if device != "cpu" else ("cpu",):
        settings = ExtractSettings(
            source=str(folder / "videos"),
            out=str(folder / place.replace(":", "-")),
            features=(
                FeatureSettings(name="image", backbone="timm/test_resnet", weights="random", precision="float32"),
                FeatureSettings(name="map", backbone="timm/test_vit", weights="random", output="map"),
            ),
            sampling=SamplingSettings(num_clips=3, num_frames=4),
            runtime=RuntimeSettings(device=place, threads=1, decode_workers=1),
        )
        assert extract(settings).videos_ok == len(videos), f"not all videos were extracted on {place}"
        store = open_store(settings.out)
        encode = encoder(settings.out, device=place)
        for name in ("image", "map"):
            features = store.feature(name)
            rows[place, name] = features.gather(np.arange(features.num_rows))
            made = np.concatenate([encode(video).features[name] for video in videos])
            same(made, rows[place, name], f"encoder of {name} on {place}")
    found = max(distance(rows[device, name], rows["cpu", name]) for name in ("image", "map"))
    return within(found, 10 * FLOAT32, "rows (one of them in float16)") + ", encoder equal to the store"


CHECKS: dict[str, Check] = {
    "store to device": gathered,
    "maps of a bank to device": maps_on_device,
    "sets to device": sets_on_device,
    "extraction and encoder()": extracted,
}
