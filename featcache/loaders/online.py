"""The backbone in the training loop: clips are decoded and encoded when drawn, each with its own crop and colours.

Clips are drawn as from a stored bank, so that the two differ only in the views of a clip: a bank holds N crops of each
video, here every clip has a new one. It costs one decode and one forward pass per frame, which a bank pays only once.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from featcache.backbones.registry import JOIN
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.sampling import sample_rows
from featcache.data.types import ClipSpec, Timeline
from featcache.errors import ConfigError
from featcache.extract.encode import encode_rows
from featcache.extract.encoder import Encoder, encoder
from featcache.extract.origin import source_roots
from featcache.loaders.bank import ClipSource, FrameBank, open_bank
from featcache.loaders.fresh import FRESH_LOOK_HASH, fresh_look
from featcache.loaders.maps import ClipMaps, StoredMaps
from featcache.loaders.settings import BankSettings
from featcache.loaders.videos import VideoFiles, find_files
from featcache.machine import forward_threads
from featcache.store.precision import to_storage
from featcache.store.reader import Store, open_store

Positions = npt.NDArray[np.int64]


class OnlineSource:
    """A :class:`featcache.loaders.bank.ClipSource` without stored rows. Open it with :func:`open_online`.

    A crop below ``num_crops(video)`` is the store's own crop, with exactly the values that the store holds (for int8,
    those before quantisation). Any larger number is a new view, drawn with that number: training draws from 2**31, so
    that it sees only new views, and test views are those of the store.
    """

    def __init__(self, bank: FrameBank, encoder: Encoder, files: VideoFiles) -> None:
        self._bank = bank
        self._encoder = encoder
        self._files = files
        self._sizes = tuple(dict.fromkeys(feature.crop for feature in encoder.features))
        self.video_ids = bank.video_ids
        self.num_source_frames = bank.num_source_frames
        self.bank_stride = bank.bank_stride
        self.shape = bank.shape
        self.identity = hashlib.sha256(f"online\n{bank.identity}\n{FRESH_LOOK_HASH}".encode()).hexdigest()[:16]

    def clips(self, videos: Positions, positions: Positions, crops: npt.ArrayLike) -> ClipMaps:
        """See :meth:`featcache.loaders.bank.ClipSource.clips`; a frame that occurs twice is encoded once.

        Raises:
            VideoError: A file does not exist any more, has changed, or does not decode.
            NonFiniteFeatureError: Values are not finite.
        """
        features = self._encoder.features
        places = np.empty(positions.shape, np.int64)
        order: list[int] = []
        parts: list[ClipMaps] = []
        with forward_threads(self._encoder.threads):
            rows = self._decoded(videos, positions, np.asarray(crops, np.int64), places)
            while batch := list(itertools.islice(rows, self._encoder.encode_batch)):
                records = encode_rows(
                    features,
                    {size: np.stack([pixels[size] for _, pixels in batch]) for size in self._sizes},
                    encode_batch=self._encoder.encode_batch,
                    device=self._encoder.device,
                )
                stored = [to_storage(records[each.name], each.record.dtype, where=each.name) for each in features]
                parts.append(self._bank.pooled(ClipMaps(tuple(StoredMaps(values=torch.from_numpy(x)) for x in stored))))
                order += [row for row, _ in batch]
        index = np.empty(len(order), np.int64)
        index[order] = np.arange(len(order))
        chosen = torch.from_numpy(index[places])
        columns = zip(*(part.features for part in parts), strict=True)
        return ClipMaps(
            tuple(StoredMaps(values=torch.cat([each.values for each in column])[chosen]) for column in columns)
        )

    def num_crops(self, video: int) -> int:
        """Number of stored crops of each frame of a video."""
        return self._bank.num_crops(video)

    def _decoded(
        self, videos: Positions, positions: Positions, crops: Positions, places: Positions
    ) -> Iterator[tuple[int, dict[CropSize, npt.NDArray[np.uint8]]]]:
        """Distinct rows as (number, uint8 [1, 3, S, S] by size), one pass per video; ``places`` gets the numbers."""
        first = 0
        for video in np.unique(videos).tolist():
            mine = np.flatnonzero(videos == video)
            with self._files.open(video) as reader:
                wanted = self._rows(video, reader.timeline, positions[mine], crops[mine])
                specs = list(dict.fromkeys(spec for clip in wanted for spec in clip))
                numbers = {spec: first + row for row, spec in enumerate(specs)}
                places[mine] = [[numbers[spec] for spec in clip] for clip in wanted]
                for batch in decode_rows(reader, specs, self._sizes, max_batch_bytes=MAX_BATCH_BYTES):
                    for place, row in enumerate(batch.rows):
                        yield first + row, {size: pixels[place] for size, pixels in batch.pixels.items()}
            first += len(specs)

    def _rows(self, video: int, timeline: Timeline, positions: Positions, crops: Positions) -> list[list[ClipSpec]]:
        """The row of each frame of each clip: the store's row, or that frame with a new view."""
        record, per_frame = self._files.videos[video], self._bank.num_crops(video)
        stored = sample_rows(self._encoder.sampling.for_split(record.split), timeline, record.id)
        clips = []
        for places, crop in zip(positions.tolist(), crops.tolist(), strict=True):
            if crop < per_frame:
                clips.append([stored[place * per_frame + crop] for place in places])
                continue
            look = fresh_look(record.id, crop, height=timeline.height, width=timeline.width)
            clips.append(
                [
                    dataclasses.replace(stored[place * per_frame], box=look.box, flip=look.flip, color=look.color)
                    for place in places
                ]
            )
        return clips


def open_online(settings: BankSettings, *, store: Store | None = None, device: str = "auto") -> OnlineSource:
    """Put the backbone of a store's frame bank into the training loop.

    Args:
        settings: Store, feature, videos and weights.
        store: The open store; ``None`` opens it.
        device: Device of the backbone.

    Raises:
        ConfigError: As in :func:`featcache.loaders.bank.open_bank`.
        ManifestError: Videos do not exist any more.
        RecipeMismatchError: The weights found differ from the store's.
        StoreError: Features were imported, or as in :func:`featcache.loaders.bank.open_bank`.
    """
    store = store or open_store(Path(settings.store))
    bank = open_bank(settings.model_copy(update={"storage": "mmap"}), store=store)
    files = find_files(
        [store.videos[video_id] for video_id in bank.video_ids],
        source_roots(store) if settings.videos is None else [Path(settings.videos)],
        decoder=store.sampling.decoder,
        hint="--online decodes them: give their folder with --set bank.videos=DIR, or train on the store without it",
    )
    built = encoder(store.path, features=bank.features, weights=_weights(settings, store, bank.features), device=device)
    return OnlineSource(bank, built, files)


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


def open_source(settings: BankSettings, *, store: Store, device: str = "auto") -> ClipSource:
    """The stored bank, or the backbone in the training loop if the settings choose it."""
    if settings.online:
        return open_online(settings, store=store, device=device)
    return open_bank(settings, store=store)
