"""Fine-tuning a temporal module on labels, and scoring test clips.

Source: AdViSe §3.2 and §4. The backbone stays frozen; the module continues from its pretext training, the head is new.

Differs from the paper: learning rate, weight decay, epochs and stride of this stage are not stated there; the defaults
are ours. Test crops are those of the store (three with ``spatial: views``), where the released code draws them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.errors import VideoError
from featcache.loaders.bank import ClipSource
from featcache.loaders.clip_positions import playback_clip, spread_clip, view_starts
from featcache.loaders.maps import ClipMaps
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.videos import DamagedError
from featcache.methods.advise.objective import ClipObjective, clip_contents
from featcache.methods.advise.saved import initial_module
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.networks.tmm import TmmClassifier
from featcache.seeding import rng_for
from featcache.training.checkpoint import checkpoint_digest
from featcache.training.generators import seeded_torch
from featcache.training.identity import digest, identity_of
from featcache.training.runs import find_seed
from featcache.training.seeds import SeedRuns
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import ALONE, World

ORDERS = ("true", "reversed", "shuffled", "one frame")
"""Orders of the frames of a test clip."""

_BYTES_AT_ONCE = 64 << 20


def training_clip(
    video: int, rng: np.random.Generator, *, source: ClipSource, settings: TmmFineTuneSettings
) -> npt.NDArray[np.int64]:
    """Positions int64 [T] of a random clip of a video."""
    length = int(source.num_source_frames[video])
    if settings.sampler == "spread":
        return spread_clip(
            length,
            num_frames=settings.num_frames,
            first_draw=rng.random(),
            last_draw=rng.random(),
            bank_stride=source.bank_stride,
        )
    start, jitter = int(rng.integers(length)), settings.speed_jitter
    return playback_clip(
        length,
        start=start,
        rate=1,
        jitter=rng.uniform(1 - jitter, 1 + jitter) if jitter else 1.0,
        num_frames=settings.num_frames,
        base_stride=settings.stride,
        bank_stride=source.bank_stride,
    )


def label_objective(
    source: ClipSource,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    settings: TmmFineTuneSettings,
    *,
    module: nn.Module,
    seed: int,
    stand_ins: StandIns | None = None,
    world: World = ALONE,
) -> ClipObjective:
    """The task of telling the classes apart; ``labels`` int64 [A] are those of ``videos``."""
    class_of = dict(zip(videos.tolist(), labels.tolist(), strict=True))
    return ClipObjective(
        source,
        videos,
        lambda video, rng: (training_clip(video, rng, source=source, settings=settings), class_of[video]),
        key="clip",
        module=module,
        batch_size=settings.training.batch_size,
        num_clips=settings.num_clips,
        seed=seed,
        stand_ins=stand_ins,
        world=world,
    )


def fine_tune(
    settings: TmmFineTuneSettings,
    bank: ClipSource,
    *,
    runs: SeedRuns,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    num_classes: int,
    seed: int,
    within: str = "",
) -> TmmClassifier:
    """Train a module and a new head on labelled videos; ``settings.init`` names the initial module.

    Args:
        settings: Settings of the run.
        bank: Source of the maps.
        runs: The run to which it belongs.
        videos: int64 [A], video numbers of ``bank``.
        labels: int64 [A], classes of the videos.
        num_classes: Number of outputs of the head.
        seed: Seed of the run.
        within: Parent of the seed's folder, relative to the run's folder.
    """
    height, _, width = bank.shape
    tmm, state = initial_module(settings.init, settings.tmm, seed=seed, width_in=width)
    with seeded_torch(seed, "tmm"):
        module = TmmClassifier(tmm, width_in=width, grid=height, num_classes=num_classes, is_frozen=settings.frozen)
    if state is not None:
        module.tmm.load_state_dict(state)
    skips = runs.skips(seed, videos.tolist(), settings.bank.max_damaged, within=within)
    stand_ins = StandIns.of(bank.files, among=videos, seed=seed, skips=skips)
    module = module.to(runs.device)
    share_batch_norms(module, runs.world)
    objective = label_objective(
        bank, videos, labels, settings, module=module, seed=seed, stand_ins=stand_ins, world=runs.world
    )
    objective.check_finite()
    contents = {**clip_contents(bank, videos), "labels": digest([labels.tolist(), num_classes])}
    if settings.init is not None:
        contents["init"] = checkpoint_digest(find_seed(Path(settings.init), seed))
    trained = runs.train(
        objective,
        seed=seed,
        identity=identity_of(settings, inputs=contents, seed=seed),
        facts={"method": "tmm", "tmm": dataclasses.asdict(tmm), "width_in": width, "num_classes": num_classes},
        within=within,
    )
    assert isinstance(trained, TmmClassifier)
    return trained


def clip_views(
    source: ClipSource, video: int, settings: TmmFineTuneSettings
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Positions int64 [views, T] and crop of each test view of a video, which are its clips times its crops."""
    length = int(source.num_source_frames[video])
    if settings.sampler == "spread":
        # A single view spans the whole video; several views, each as long as the mean training clip, slide over it.
        ends = [(0.0, 0.0)]
        if settings.test_clips > 1:
            ends = [(place, 1 - place) for place in np.linspace(0, 1, settings.test_clips).tolist()]
        clips = [
            spread_clip(
                length, num_frames=settings.num_frames, first_draw=min(first, 1 - 1e-9),
                last_draw=min(last, 1 - 1e-9),
                bank_stride=source.bank_stride,
            )
            for first, last in ends
        ]  # fmt: skip
    else:
        starts = view_starts(
            length, num_clips=settings.test_clips, num_frames=settings.num_frames, stride=settings.stride
        )
        clips = [
            playback_clip(
                length, start=start, rate=1, jitter=1.0, num_frames=settings.num_frames, base_stride=settings.stride,
                bank_stride=source.bank_stride,
            )
            for start in starts.tolist()
        ]  # fmt: skip
    crops = list(range(source.num_crops(video)))
    return np.stack([clip for clip in clips for _ in crops]), crops * len(clips)


def frame_order(order: str, *, num_frames: int, seed: int) -> npt.NDArray[np.int64]:
    """The place of each frame of a clip that is put into another order, int64 [num_frames].

    ``shuffled``: one fixed permutation per seed, never the identity; ``one frame``: the middle one, repeated.
    """
    places = np.arange(num_frames)
    if order == "reversed":
        return places[::-1].copy()
    if order == "shuffled":
        return _derangement(num_frames, seed=seed)
    if order == "one frame":
        return np.full(num_frames, num_frames // 2)
    assert order == "true", f"order {order!r}"
    return places


@torch.inference_mode()
def video_logits(
    modules: Sequence[TmmClassifier],
    source: ClipSource,
    videos: npt.NDArray[np.int64],
    settings: TmmFineTuneSettings,
    *,
    orders: Sequence[str] = ORDERS,
    seeds: Sequence[int],
    world: World = ALONE,
    on_videos: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float64]]]:
    """Mean logits over each video's views, for every order of the frames; collective.

    The rows of a view are read once for all modules and orders. Videos that turn out not to decode are left out.

    Args:
        modules: S modules on one device, which are put into evaluation mode.
        source: Source of the maps.
        videos: int64 [N], numbers of the videos.
        settings: Clips and views.
        orders: Orders of the frames, of :data:`ORDERS`.
        seeds: Seed of each module, which its shuffled order depends on.
        world: The processes that share the videos; each scores every ``size``-th.
        on_videos: Called with videos done so far and in total, of this process.

    Returns:
        int64 [M], numbers of the videos that could be scored; and order to float64 [S, M, num_classes]; in every
        process.

    Raises:
        VideoError: A video is missing or has changed since it was scanned, or none can be decoded.
    """
    device = next(modules[0].parameters()).device
    for module in modules:
        module.eval()
    mine = videos[list(world.mine(len(videos)))]
    is_scored = torch.zeros(len(mine), dtype=torch.bool)
    logits = torch.zeros(len(mine), len(orders), len(modules), modules[0].head.fc2.out_features, dtype=torch.float64)
    done = 0
    for chunk in _chunks(source, mine, settings):
        here = slice(done, done + len(chunk))
        done += len(chunk)
        read = _read(source, chunk, settings)
        if read is None:
            continue
        maps, rows = read.maps.on(device), torch.from_numpy(np.isin(chunk, read.videos))
        is_scored[here] = rows
        for (which, order), (number, module) in itertools.product(enumerate(orders), enumerate(modules)):
            places = frame_order(order, num_frames=maps.shape[1], seed=seeds[number])
            ordered = maps if order == "true" else maps[:, torch.from_numpy(places).to(device)]
            scores: Tensor = module(ordered).double().cpu()
            means = torch.stack([part.mean(dim=0) for part in torch.split(scores, read.counts)])
            logits[here, which, number][rows] = means
        if on_videos is not None:
            on_videos(done, len(mine))
    kept = world.collect(is_scored, len(videos)).numpy()
    if not kept.any():
        raise VideoError("undecodable", f"none of {len(videos)} test videos can be decoded")
    found = world.collect(logits, len(videos)).numpy()[kept]
    return videos[kept], {order: found[:, which].swapaxes(0, 1) for which, order in enumerate(orders)}


class _Views(NamedTuple):
    """Test views of videos int64 [B]: how many each has, and their maps one after another."""

    videos: npt.NDArray[np.int64]
    counts: list[int]
    maps: ClipMaps


def _read(source: ClipSource, videos: npt.NDArray[np.int64], settings: TmmFineTuneSettings) -> _Views | None:
    """The views of the videos that can be decoded; ``None`` if none can."""
    while len(videos):
        views = [clip_views(source, int(video), settings) for video in videos]
        counts = [len(crops) for _, crops in views]
        positions, crops = np.concatenate([clips for clips, _ in views]), [crop for _, crops in views for crop in crops]
        try:
            return _Views(videos, counts, source.clips(np.repeat(videos, counts), positions, crops))
        except DamagedError as damaged:
            videos = videos[~np.isin(videos, list(damaged.errors))]
    return None


def _chunks(
    source: ClipSource, videos: npt.NDArray[np.int64], settings: TmmFineTuneSettings
) -> Iterator[npt.NDArray[np.int64]]:
    """Groups of videos whose views fit into a batch."""
    height, width, depth = source.shape
    most = max(source.num_crops(int(video)) for video in videos) if len(videos) else 1
    view_bytes = settings.num_frames * height * width * depth * 4
    step = max(1, _BYTES_AT_ONCE // (view_bytes * settings.test_clips * most))
    for first in range(0, len(videos), step):
        yield videos[first : first + step]


def _derangement(length: int, *, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of ``length`` that is not the identity."""
    if length < 2:
        return np.arange(length)
    for attempt in range(1000):
        order = rng_for(seed, "shuffle", attempt).permutation(length)
        if not np.array_equal(order, np.arange(length)):
            return order
    raise AssertionError("a thousand draws gave the identity")
