"""The end-to-end baseline of AdViSe's cost table: the same pretext on pixels, with an R3D-50 that is trained whole.

Differs from the paper: as :mod:`featcache.methods.advise.playback`, but crops and colours are fresh for every clip.
"""

from featcache.loaders.choice import training_videos
from featcache.loaders.fresh import PixelSource
from featcache.loaders.usable import list_videos, open_usable
from featcache.methods.advise.playback import PlaybackRateObjective
from featcache.methods.advise.run import PlaybackResult, clip_contents, playback_result
from featcache.methods.advise.settings import R3d50Settings
from featcache.networks.counting import count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.networks.tmm_cost import MEGA
from featcache.stages import OnStage, ignore
from featcache.training.generators import seeded_torch
from featcache.training.seeds import open_runs


def pretrain_r3d50(settings: R3d50Settings, *, on_stage: OnStage = ignore) -> PlaybackResult:
    """Train an R3D-50 on the playback rate, once per seed; unfinished runs are resumed, finished ones kept.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan``, then with ``seed N`` after each step.

    Raises:
        ManifestError: There are no usable videos.
        VideoError: A video has changed since it was scanned.
        UnknownNameError: There is no such split.
    """
    training, num_classes = settings.training, len(settings.clips.rates)
    runs = open_runs(settings, training, name="r3d50", of=settings.videos_name, out=settings.out, on_stage=on_stage)
    source = open_pixels(settings, on_stage=on_stage)
    splits = {video.id: video.split for video in source.videos if video.split}
    videos = training_videos(source.video_ids, splits, settings.train_split)
    contents = clip_contents(source, videos, name="source")
    for seed in training.seeds:
        with seeded_torch(seed, "r3d50"):
            module = R3d50(
                num_classes=num_classes,
                width=settings.width,
                head_hidden=settings.head_hidden,
                dropout=settings.dropout,
            ).to(runs.device)
        runs.train(
            PlaybackRateObjective(
                source, videos, settings.clips, module=module, batch_size=training.batch_size, seed=seed
            ),
            seed=seed,
            identity=runs.identity(seed, contents),
            facts={"method": "r3d50", "width": settings.width, "num_classes": num_classes},
        )
    num_parameters = count_parameters(module)
    counts = {"megaparameters": num_parameters / MEGA}
    return runs.finish(playback_result(runs, settings, videos, num_parameters, counts))


def open_pixels(settings: R3d50Settings, *, on_stage: OnStage = ignore) -> PixelSource:
    """The usable videos of a source as clips of pixels; how many are not is logged.

    Raises:
        ManifestError: No video is usable, or a file of a manifest does not exist any more.
    """
    manifest = list_videos(settings, on_stage=on_stage)
    usable = open_usable(manifest.videos, root=manifest.root, decoder=settings.decoder)
    return PixelSource(usable.files, size=settings.size)
