"""The end-to-end baseline of AdViSe's cost table: the same pretext on pixels, with an R3D-50 that is trained whole.

Differs from the paper: as :mod:`featcache.methods.advise.pretext`, but crops and colours are fresh for every clip.
"""

from pathlib import Path

from featcache.config import to_yaml
from featcache.data.listing import OnScan
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.choice import training_videos
from featcache.loaders.usable import list_videos, open_usable
from featcache.loaders.videos import PixelSource
from featcache.methods.advise.cost import MEGA, measured_cost
from featcache.methods.advise.pretext import PlaybackRateObjective
from featcache.methods.advise.run import OnSeed, PretextResult, clip_contents, ignore
from featcache.methods.advise.settings import R3d50Settings
from featcache.networks.counting import count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.training.generators import seeded_torch
from featcache.training.identity import identity_of
from featcache.training.logs import read_log
from featcache.training.loop import train
from featcache.training.runs import prepare_torch, run_folder, seed_folder


def pretrain_r3d50(
    settings: R3d50Settings, *, on_scan: OnScan = lambda done, total: None, on_progress: OnSeed = ignore
) -> PretextResult:
    """Train an R3D-50 on playback rate, once a seed; runs that are there are taken up or left as they are.

    Args:
        settings: Everything that can be chosen.
        on_scan: Called with (files listed, files in all).
        on_progress: Called with the seed and its progress.

    Raises:
        ManifestError: No usable videos.
        VideoError: A video that has changed since it was scanned.
        UnknownNameError: No such split.
    """
    device = prepare_torch(settings.training)
    source = open_pixels(settings, on_scan=on_scan)
    splits = {video.id: video.split for video in source.videos if video.split}
    videos = training_videos(source.video_ids, splits, settings.train_split)
    name = Path(settings.source or settings.dataset or "").stem
    folder = run_folder(settings, out=settings.out, store=name, name="r3d50")
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    logs, num_parameters = {}, 0
    for seed in settings.training.seeds:
        with seeded_torch(seed, "r3d50"):
            module = R3d50(
                num_classes=len(settings.clips.rates),
                width=settings.width,
                head_hidden=settings.head_hidden,
                dropout=settings.dropout,
            ).to(device)
        num_parameters = count_parameters(module)
        objective = PlaybackRateObjective(
            source, videos, settings.clips, module=module, batch_size=settings.training.batch_size, seed=seed
        )
        train(
            objective,
            settings.training,
            folder=seed_folder(folder, seed),
            seed=seed,
            identity=identity_of(settings, inputs=clip_contents(source, videos, name="source"), seed=seed),
            facts={"method": "r3d50", "width": settings.width, "num_classes": len(settings.clips.rates)},
            on_progress=lambda progress, seed=seed: on_progress(seed, progress),  # type: ignore[misc]
        )
        logs[seed] = read_log(seed_folder(folder, seed))[-1]
    cost = measured_cost(
        list(logs.values()),
        num_videos=min(settings.training.batch_size, len(videos)),
        num_clips=settings.clips.num_clips,
    )
    result = PretextResult(
        folder=str(folder),
        num_videos=len(videos),
        num_parameters=num_parameters,
        seeds=logs,
        cost={"megaparameters": num_parameters / MEGA, **cost},
    )
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def open_pixels(settings: R3d50Settings, *, on_scan: OnScan = lambda done, total: None) -> PixelSource:
    """The usable videos of a source as clips of pixels; how many are not is logged.

    Raises:
        ManifestError: None is usable, or a file of a manifest is gone.
    """
    manifest = list_videos(settings, on_scan=on_scan)
    usable = open_usable(manifest.videos, root=manifest.root, decoder=settings.decoder)
    return PixelSource(usable.files, size=settings.size)
