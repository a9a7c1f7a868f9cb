"""Tiny videos of two classes that any colour tells apart, and quick settings."""

import numpy as np

from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan_file
from featcache.data.types import VideoRecord
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.seeding import rng_for
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import write_video
from featcache.training.settings import OptimiserSettings, TrainingSettings

CLASSES = {"blue": (60, 60, 220), "red": (220, 60, 60)}


def write_classes(folder, counts, *, damaged=()):
    """Noisy videos of one colour a class, and one that is broken, scanned; returns the path of their manifest.

    Args:
        folder: Where to.
        counts: Split to videos a class.
        damaged: Names of files that pass the scan and then do not decode.
    """
    videos = []
    for split, count in counts.items():
        for name, color in CLASSES.items():
            for number in range(count):
                path = f"{split}-{name}-{number}.mp4"
                noise = rng_for(0, path).integers(-40, 40, (9 + number, 36, 48, 3))
                pictures = list(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8))
                write_video(folder / path, pictures=pictures, options={"bf": "0"} if path in damaged else None)
                if path in damaged:
                    overwrite_pictures(folder / path, first=1, num=8)
                listed = VideoRecord(id=path, path=path, split=split, labels={"label": name})
                *_, scanned = scan_file(listed, folder / path)
                videos.append(scanned)
    about = {"split": "test", "labels": {"label": "red"}, "status": "undecodable", "reason": "no video"}
    videos.append(VideoRecord(id="broken.mp4", path="broken.mp4", **about))
    manifest = folder / "videos.parquet"
    write_parquet(Manifest(root=str(folder), videos=tuple(videos)), manifest)
    return manifest


def changed(manifest, name, change):
    """Another manifest beside this one, its rows changed one by one; returns its path."""
    before = read_parquet(manifest)
    after = Manifest(root=before.root, videos=tuple(change(video) for video in before.videos))
    path = manifest.with_name(f"{name}.parquet")
    write_parquet(after, path)
    return path


def training(**changes):
    given = {"epochs": 2, "batch_size": 3, "device": "cpu", "threads": 1, "tensorboard": False}
    optimiser = OptimiserSettings(name="sgd", lr=0.05, weight_decay=1e-4, decay_all=True)
    return TrainingSettings(**{"optimiser": optimiser, "checkpoint_seconds": 0, **given, **changes})


def settings(source, out, **changes):
    given = {
        "source": str(source),
        "backbone": "svt-tiny",
        "weights": "random",
        "input_size": 32,
        "workers": 0,
        "clips": FinetuneClipSettings(num_frames=2),
        "test": FinetuneTestSettings(num_crops=1),
        "training": training(),
        "out": str(out),
    }
    return FinetuneSettings(**{**given, **changes})
