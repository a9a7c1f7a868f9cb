"""The backbone in the training loop: clips are decoded and encoded when drawn, each with its own crop and colours.

Clips are drawn as from a stored bank, so that the two differ only in the views of a clip: a bank holds N crops of each
video, here every clip has a new one. It costs one decode and one forward pass per frame, which a bank pays only once.
Processes decode, ahead of the encoder; the training loop requests batches ahead of the module.
"""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch

from featcache.backbones.registry import JOIN
from featcache.data.decoding.clips import CropSize, RowBatch
from featcache.data.decoding.pool import Event, Failed, Payload, Restarted, WorkerPool
from featcache.errors import ConfigError, ManifestError, VideoError
from featcache.extract.encode import encode_rows
from featcache.extract.encoder import Encoder, encoder
from featcache.extract.lacking import rows_per_video
from featcache.extract.origin import source_roots
from featcache.files.urls import shown
from featcache.loaders.bank import ClipSource, open_bank
from featcache.loaders.choice import MAPS, VideoList, choose_feature, video_splits
from featcache.loaders.clip_jobs import ClipsJob, decode_clips
from featcache.loaders.fresh import FRESH_LOOK_HASH
from featcache.loaders.maps import ClipMaps, Pooling, StoredMaps
from featcache.loaders.settings import BankSettings
from featcache.loaders.unstored import UnstoredVideos
from featcache.loaders.videos import DamagedError, VideoFiles, find_files
from featcache.machine import forward_threads, resolve_device
from featcache.recipes import recipe_hash
from featcache.store.precision import to_storage
from featcache.store.reader import Store
from featcache.training.runs import cores_of
from featcache.training.world import ALONE, World

if TYPE_CHECKING:
    from featcache.data.types import Status

_MIN_AHEAD_BYTES = 32_000_000

Positions = npt.NDArray[np.int64]
Pixels = dict[CropSize, npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """The bank that videos have or would have.

    Attributes:
        videos: Their files.
        positions: int64 [V], moments of each video.
        crops: int64 [V], crops of each moment.
        pooling: Pooling at reading.
        identity: A value that changes whenever the rows could have changed.
    """

    videos: VideoFiles
    positions: Positions
    crops: Positions
    pooling: Pooling
    identity: str


class OnlineSource:
    """A :class:`featcache.loaders.bank.ClipSource` without stored rows. Open it with :func:`open_source`.

    A crop below ``num_crops(video)`` is the crop that a store holds or would hold, with exactly its values (for int8,
    those before quantisation). Any larger number is a new view, drawn with that number: training draws from 2**31, so
    that it sees only new views, and test views are those of a store.

    Its decoding processes end with it.

    Attributes:
        files: The videos.

    Args:
        bank: The bank that the videos have or would have.
        encoder: The pipeline of its features.
        workers: Number of decoding processes, 0: decode in this one; ``None``: 1 on CPU, half of the cores on a GPU.
        world: The processes that share the cores, of which each has a source of its own.
    """

    def __init__(self, bank: Bank, encoder: Encoder, *, workers: int | None, world: World = ALONE) -> None:
        self._bank = bank
        self._encoder = encoder
        self._sizes = tuple(dict.fromkeys(feature.crop for feature in encoder.features))
        self.files = bank.videos
        self.video_ids = tuple(video.id for video in bank.videos.videos)
        self.bank_stride = encoder.sampling.frame_stride
        self.num_source_frames = bank.positions * self.bank_stride
        blank = [torch.zeros(feature.record.shape)[None] for feature in encoder.features]
        height, width, depth = bank.pooling(ClipMaps(tuple(StoredMaps(values=one) for one in blank))).joined.shape[1:]
        self.shape = (height, width, depth)
        self.identity = hashlib.sha256(f"online\n{bank.identity}\n{FRESH_LOOK_HASH}".encode()).hexdigest()[:16]
        self._decoded: Callable[[Iterable[ClipsJob]], Iterator[Event]] = _decode_here
        if workers is None:
            workers = 1 if encoder.device == "cpu" else max(1, cores_of(world) // 2)
        if workers:
            row_bytes = sum(3 * size.size**2 for size in self._sizes)
            pool = WorkerPool(
                decode_clips,
                name=lambda job: shown(job.file.path),
                num_workers=workers,
                ahead_bytes=max(_MIN_AHEAD_BYTES, 4 * encoder.encode_batch * row_bytes),
            )
            weakref.finalize(self, pool.close)
            self._decoded = pool.run

    def clips(self, videos: Positions, positions: Positions, crops: npt.ArrayLike) -> ClipMaps:
        """See :meth:`featcache.loaders.bank.ClipSource.clips`; a frame that occurs twice is encoded once.

        Raises:
            DamagedError: Videos do not decode.
            VideoError: A file does not exist any more, or has changed.
            NonFiniteFeatureError: Values are not finite.
        """
        numbers = np.unique(videos)
        jobs = [
            self._job(int(video), positions[videos == video], np.asarray(crops)[videos == video]) for video in numbers
        ]
        rows: dict[int, Positions] = {}  # by job: the row of each frame
        places: dict[tuple[int, int], int] = {}  # by job and row: its place among the encoded rows
        waiting: list[tuple[tuple[int, int], Pixels]] = []
        encoded: list[ClipMaps] = []
        damaged: dict[int, VideoError] = {}
        with forward_threads(self._encoder.threads):
            for event in self._decoded(jobs):
                match event:
                    case Payload(item=item, value=RowBatch() as batch):
                        for place, row in enumerate(batch.rows):
                            pixels = {size: values[place] for size, values in batch.pixels.items()}
                            waiting.append(((item, row), pixels))
                    case Payload(item=item, value=wanted):
                        rows[item] = wanted
                        self.files.was_read(int(numbers[item]))
                    case Restarted(item=item):
                        waiting = [one for one in waiting if one[0][0] != item]
                    case Failed(item=item, status=status, reason=reason):
                        error, number = VideoError(status, reason), int(numbers[item])
                        self.files.damage(number, error)
                        damaged[number] = error
                if damaged:  # the others are only looked at for damage
                    waiting = []
                while len(waiting) >= self._encoder.encode_batch:
                    waiting = self._encode(waiting, places, encoded)
            if damaged:
                raise DamagedError(self.files, dict(sorted(damaged.items())))
            while waiting:
                waiting = self._encode(waiting, places, encoded)
        index = np.empty(positions.shape, np.int64)
        for item, wanted in rows.items():
            mine = [[places[item, row] for row in clip] for clip in wanted.tolist()]
            index[videos == numbers[item]] = mine
        columns = zip(*(part.features for part in encoded), strict=True)
        chosen = torch.from_numpy(index)
        return ClipMaps(
            tuple(StoredMaps(values=torch.cat([each.values for each in column])[chosen]) for column in columns)
        )

    def ahead(self, videos: Positions, positions: Positions, crops: npt.ArrayLike) -> None:
        """Do nothing: clips are decoded when they are asked for."""

    def order(self, videos: Positions) -> None:
        """A full shuffle."""

    def num_crops(self, video: int) -> int:
        """Number of crops of each frame of a video that a store holds or would hold."""
        return int(self._bank.crops[video])

    def _job(self, video: int, positions: Positions, crops: Positions) -> ClipsJob:
        record = self._bank.videos.videos[video]
        return ClipsJob(
            file=self.files.file(video),
            sampling=self._encoder.sampling.for_split(record.split),
            positions=positions,
            crops=crops,
            sizes=self._sizes,
        )

    def _encode(
        self,
        waiting: list[tuple[tuple[int, int], Pixels]],
        places: dict[tuple[int, int], int],
        encoded: list[ClipMaps],
    ) -> list[tuple[tuple[int, int], Pixels]]:
        """Encode the first batch of the rows that wait; returns the others."""
        batch, others = waiting[: self._encoder.encode_batch], waiting[self._encoder.encode_batch :]
        features = self._encoder.features
        records = encode_rows(
            features,
            {size: np.stack([pixels[size] for _, pixels in batch]) for size in self._sizes},
            encode_batch=self._encoder.encode_batch,
            device=self._encoder.device,
        )
        first = sum(len(part) for part in encoded)
        places.update({key: first + place for place, (key, _) in enumerate(batch)})
        stored = [to_storage(records[each.name], each.record.dtype, where=each.name) for each in features]
        encoded.append(self._bank.pooling(ClipMaps(tuple(StoredMaps(values=torch.from_numpy(x)) for x in stored))))
        return others


def _decode_here(jobs: Iterable[ClipsJob]) -> Iterator[Event]:
    """The events that a pool would give, from this process."""
    for item, job in enumerate(jobs):
        try:
            for value in decode_clips(job):
                yield Payload(item, value)
        except VideoError as error:
            yield Failed(item, cast("Status", error.status), error.reason)


def open_source(settings: BankSettings, *, videos: VideoList, device: str = "auto", world: World = ALONE) -> ClipSource:
    """The stored bank, or the backbone in the training loop if the settings choose it.

    Args:
        settings: The bank.
        videos: What :func:`featcache.loaders.unstored.open_videos` has opened for the same settings.
        device: Device of the training, and of the backbone.
        world: The processes that share the machine, of which each calls this.

    Raises:
        ConfigError: As in :func:`featcache.loaders.bank.open_bank`.
        ManifestError: Videos do not exist any more, or none can be used.
        RecipeMismatchError: The weights found differ from the store's.
        StoreError: Features were imported, or as in :func:`featcache.loaders.bank.open_bank`.
    """
    if settings.shuffle == "block" and (settings.online or isinstance(videos, UnstoredVideos)):
        raise ConfigError(
            "bank.shuffle=block is an order of stored rows, and online decodes videos; leave one of them out"
        )
    if isinstance(videos, UnstoredVideos):
        return _unstored(settings, videos, world)
    assert isinstance(videos, Store), "there are only two kinds of video lists"
    if not settings.online:
        return open_bank(settings, store=videos, device=resolve_device(device))
    return _stored(settings, videos, device=device, world=world)


def _stored(settings: BankSettings, store: Store, *, device: str, world: World) -> OnlineSource:
    """The videos of a store's frame bank."""
    bank = open_bank(settings.model_copy(update={"storage": "mmap"}), store=store)
    videos = [store.videos[video_id] for video_id in bank.video_ids]
    if store.sampling.both_views:  # the views that are read follow the column, and so do those that are encoded
        splits = video_splits(store, settings.split_column)
        videos = [replace(video, split=splits.get(video.id, "")) for video in videos]
    files = find_files(
        videos,
        source_roots(store) if settings.videos is None else [Path(settings.videos)],
        decoder=store.sampling.decoder,
        hint="--online decodes them: give their folder with --set bank.videos=DIR, or train on the store without it",
    )
    built = encoder(store.path, features=bank.features, weights=_weights(settings, store, bank.features), device=device)
    return OnlineSource(
        Bank(
            videos=files,
            positions=bank.num_source_frames // bank.bank_stride,
            crops=np.array([bank.num_crops(video) for video in range(len(bank.video_ids))], np.int64),
            pooling=bank.pooling,
            identity=bank.identity,
        ),
        built,
        workers=settings.workers,
        world=world,
    )


def _unstored(settings: BankSettings, videos: UnstoredVideos, world: World) -> OnlineSource:
    """The videos of an extraction that is never stored."""
    prepared = videos.prepared
    if videos.sampling.layout != "frames":
        raise ConfigError(
            f"{videos.path} extracts clips, and this method draws its own clips from a frame bank; give it "
            "sampling.layout frames and features of output map, or --preset advise"
        )
    names = [None] if settings.feature is None else settings.feature.split(JOIN)
    chosen = [choose_feature(videos, name, MAPS) for name in names]
    named = {feature.name: feature for feature in prepared.features}
    usable = [video for video in videos.videos.values() if video.status == "ok"]
    if not usable:
        raise ManifestError(
            f"none of the {len(videos.videos)} videos of {videos.path} can be used; `featcache scan` says why"
        )
    files = find_files(usable, [Path(videos.root)], decoder=videos.sampling.decoder, hint="scan the videos again")
    crops = np.array([videos.sampling.for_split(video.split).num_crops for video in usable], np.int64)
    rows = np.array(rows_per_video(usable, replace(videos.sampling, both_views=False)), np.int64)
    content = [*(recipe_hash(named[name].recipe) for name in chosen), recipe_hash(videos.sampling)]
    content += [str(settings.grid), str(settings.channels), files.content, *(video.split for video in usable)]
    return OnlineSource(
        Bank(
            videos=files,
            positions=rows // crops,
            crops=crops,
            pooling=Pooling(grid=settings.grid, channels=settings.channels),
            identity=hashlib.sha256("\n".join(content).encode()).hexdigest()[:16],
        ),
        Encoder(
            sampling=prepared.sampling,
            features=tuple(named[name] for name in chosen),
            encode_batch=prepared.encode_batch,
            threads=prepared.threads,
            device=prepared.device,
            matmul=prepared.settings.runtime.matmul,
            weights={feature.name or "": feature.weights for feature in prepared.settings.features},
        ),
        workers=settings.workers,
        world=world,
    )


def _weights(settings: BankSettings, store: Store, features: Sequence[str]) -> dict[str, str] | None:
    """The weights of each feature's backbone.

    Raises:
        ConfigError: They are not one for each feature.
    """
    if settings.weights is None:
        return None
    parts = [settings.weights] if len(features) == 1 else settings.weights.split(JOIN)
    if len(parts) != len(features):
        raise ConfigError(
            f"bank.weights names {len(parts)} files for {len(features)} features; give one for each, joined by {JOIN}"
        )
    return {store.features[name][0].backbone: part for name, part in zip(features, parts, strict=True)}
