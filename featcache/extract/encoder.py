"""``encoder(store)``: the exact pipeline of a store, for a video it has never seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.decoding import open_video
from featcache.data.decoding.clips import CropSize, RowBatch, decode_rows
from featcache.data.sampling import sample_rows
from featcache.extract.encode import BoundFeature, encode_rows, forward_threads
from featcache.extract.jobs import MAX_BATCH_BYTES, RowDetails, describe_rows
from featcache.recipes import SamplingRecipe
from featcache.store.precision import staging_dtype, to_storage


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideo:
    """Features of one video, as the store would hold them.

    Attributes:
        features: Each array's rows, [num_rows, *record]; int8 arrays are given in float32, before quantisation.
        rows: Frames, boxes, flips and times of the rows.
    """

    features: dict[str, npt.NDArray[np.generic]]
    rows: RowDetails


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Turns a video into the rows that ``extract`` would store. Build it with :func:`encoder`.

    Attributes:
        sampling: The store's recipe.
        features: The store's arrays, bound to backbones.
        encode_batch: Rows a forward, as in the store's last plan.
        threads: Threads of the forward, as in the store's last plan.
        device: Where the backbones are.
    """

    sampling: SamplingRecipe
    features: tuple[BoundFeature, ...]
    encode_batch: int
    threads: int
    device: str

    def __call__(self, video: str | Path, *, video_id: str | None = None) -> EncodedVideo:
        """Sample, decode and encode one file.

        Args:
            video: The file.
            video_id: Its id, which seeds random clips and boxes; the file's name if not given.

        Raises:
            VideoError: The file cannot be read.
        """
        path = Path(video)
        sizes = tuple(dict.fromkeys(feature.crop for feature in self.features))
        with open_video(path, decoder=self.sampling.decoder) as reader:
            timeline = reader.timeline
            specs = sample_rows(self.sampling, timeline, video_id or path.name)
            details = describe_rows(specs, timeline)
            arrays = {
                feature.name: np.zeros((len(specs), *feature.record.shape), dtype=staging_dtype(feature.record.dtype))
                for feature in self.features
            }
            with forward_threads(self.threads):
                for batch in decode_rows(reader, specs, sizes, max_batch_bytes=MAX_BATCH_BYTES):
                    self._encode(batch, arrays)
        return EncodedVideo(features=arrays, rows=details)

    def _encode(self, batch: RowBatch, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        for start in range(0, len(batch.rows), self.encode_batch):
            part = slice(start, start + self.encode_batch)
            pixels: dict[CropSize, npt.NDArray[np.uint8]] = {
                size: values[part] for size, values in batch.pixels.items()
            }
            records = encode_rows(self.features, pixels, encode_batch=self.encode_batch, device=self.device)
            for feature in self.features:
                rows = list(batch.rows[part])
                arrays[feature.name][rows] = to_storage(records[feature.name], feature.record.dtype, where=feature.name)


def encoder(store: str | Path, *, weights: Mapping[str, str] | None = None, device: str = "auto") -> Encoder:
    """Rebuild the pipeline of a store.

    Args:
        store: The store.
        weights: A weight file a backbone name, where the store was made with a file; the path used then is tried first.
        device: ``auto``, ``cpu`` or ``cuda``. Bit-identity needs the kind that the store was made on.

    Raises:
        RecipeMismatchError: Weights at hand differ from the store's.
        WeightsError: Weights are not at hand.
    """
    raise NotImplementedError
