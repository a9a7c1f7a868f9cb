"""``encoder(store)``: the exact pipeline of a store, for videos that are not in it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.backbones import Backbone, build_backbone
from featcache.backbones.registry import JOIN, check_name
from featcache.config import mapping_in, parse
from featcache.data.decoding import open_video
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, RowBatch, decode_rows
from featcache.data.sampling import sample_rows
from featcache.errors import ConfigError, RecipeMismatchError, StoreError, UnknownNameError, unknown_name
from featcache.extract.encode import BoundFeature, encode_rows, float32_products
from featcache.extract.jobs import RowDetails, describe_rows
from featcache.extract.settings import ExtractSettings
from featcache.machine import Matmul, forward_threads, resolve_device
from featcache.recipes import SamplingRecipe
from featcache.store.documents import kept_settings
from featcache.store.precision import staging_dtype, to_storage
from featcache.store.reader import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideo:
    """Features of one video as the store would hold them.

    Attributes:
        features: Rows of each array, [num_rows, *record]; int8 arrays are given in float32, before quantisation.
        rows: Frames, boxes, flips and times of the rows.
    """

    features: dict[str, npt.NDArray[np.generic]]
    rows: RowDetails


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Turns a video into the rows that ``extract`` would store. Build it with :func:`encoder`.

    Attributes:
        sampling: The store's sampling recipe.
        features: The store's arrays, bound to backbones.
        encode_batch: Number of rows per forward pass, as in the store's last plan.
        threads: Number of threads of the forward pass, as in the store's last plan.
        device: Device of the backbones.
        matmul: How a GPU multiplies float32.
        weights: Source of each feature's weights: ``default``, ``random`` or a file.
    """

    sampling: SamplingRecipe
    features: tuple[BoundFeature, ...]
    encode_batch: int
    threads: int
    device: str
    matmul: Matmul
    weights: Mapping[str, str]

    def __call__(self, video: str | Path, *, video_id: str | None = None, split: str = "") -> EncodedVideo:
        """Sample, decode and encode one file.

        Args:
            video: The video file.
            video_id: Id of the video, which seeds random clips, boxes and colours; the file's name if not given.
            split: Split of the video, for stores with other views of test videos; without a split it counts as
                training. Where a store has both views of every video, the rows are those of this split.

        Raises:
            VideoError: The file cannot be read.
        """
        path = Path(video)
        sizes = tuple(dict.fromkeys(feature.crop for feature in self.features))
        with open_video(path, decoder=self.sampling.decoder) as reader:
            timeline = reader.timeline
            specs = sample_rows(self.sampling.for_split(split), timeline, video_id or path.name)
            details = describe_rows(specs, timeline)
            arrays = {
                feature.name: np.zeros((len(specs), *feature.record.shape), dtype=staging_dtype(feature.record.dtype))
                for feature in self.features
            }
            with forward_threads(self.threads), float32_products(self.matmul):
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


def encoder(
    store: str | Path,
    *,
    features: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    device: str = "auto",
    matmul: Matmul = "highest",
) -> Encoder:
    """Rebuild the pipeline of a store.

    Args:
        store: Folder of the store, or its URL in a bucket.
        features: Names of the arrays to compute; all if not given.
        weights: Weights by backbone name (``default``, ``random`` or a file), if those that the store was made with
            have moved.
        device: ``auto``, ``cpu`` or ``cuda``. Equality to the bit needs the kind of device that made the store.
        matmul: How a GPU multiplies float32, ``highest`` or ``high``; equality to the bit needs the store's setting.

    Raises:
        RecipeMismatchError: The weights found differ from the store's.
        WeightsError: Weights cannot be found.
        StoreError: There is no store, it has no plan yet, or features were imported without the facts that are needed
            to compute them.
        UnknownNameError: There is no such feature, or ``weights`` names a backbone that the features do not use.
    """
    opened, device = open_store(store), resolve_device(device)
    root = opened.path
    if not opened.generations:
        raise StoreError(f"{root} has no plan yet; run `featcache extract` first")
    for name in features or ():
        if name not in opened.features:
            raise unknown_name("feature", name, opened.features)
    declared = {name: opened.features[name] for name in (opened.features if features is None else features)}
    for name, (recipe, _) in declared.items():
        if opened.sampling.is_imported or not recipe.weights_hash.startswith("sha256:"):
            raise StoreError(
                f"feature {name!r} of {root} was imported and its recipe does not say all that it takes to compute it; "
                "encode with the program that made it, or extract the feature from the videos"
            )
        try:
            check_name(recipe.backbone)
        except UnknownNameError as error:
            raise StoreError(
                f"feature {name!r} of {root} was made with backbone {recipe.backbone!r}, which no installed package "
                "offers; install the one that does"
            ) from error
    plan = opened.generations[-1]
    used = {recipe.backbone for recipe, _ in declared.values()}
    if unknown := sorted(set(weights or {}) - used):
        raise unknown_name("backbone", unknown[0], used, hint=f"({root} uses these.)")
    given = _weights_given(opened.path)
    built: dict[tuple[str, str], Backbone] = {}
    bound = []
    sources = {}
    for name, (recipe, record) in declared.items():
        source = (weights or {}).get(recipe.backbone) or given.get(name, "default")
        key = (recipe.backbone, source)
        if key not in built:
            built[key] = build_backbone(recipe.backbone, weights=source).to(device)
        if built[key].weights_hash != recipe.weights_hash:
            raise RecipeMismatchError(
                f"weights {source!r} of {recipe.backbone!r} are not those of feature {name!r} in {root} "
                f"({built[key].weights_hash[:19]} against {recipe.weights_hash[:19]}); "
                f"pass weights={{{recipe.backbone!r}: PATH}}"
            )
        bound.append(BoundFeature(name=name, recipe=recipe, record=record, backbone=built[key]))
        sources[name] = source
    return Encoder(
        sampling=opened.sampling,
        features=tuple(bound),
        encode_batch=plan.encode_batch,
        threads=plan.threads,
        device=device,
        matmul=matmul,
        weights=sources,
    )


def _weights_given(store: Path | str) -> dict[str, str]:
    """Weights that the extractions of a store were given, by feature; only a hint, since the hash decides."""
    given: dict[str, str] = {}
    for where, text in kept_settings(store, "extract"):
        try:
            settings = parse(ExtractSettings, mapping_in(text, where=where))
        except ConfigError as error:  # written by another version, or by hand
            log.warning("no hint about weights in %s: %s", where, error)
            continue
        for feature in settings.features:
            parts = feature.weights.split(JOIN) if JOIN in feature.backbone else [feature.weights]
            is_gone = any(part not in ("default", "random") and not Path(part).is_file() for part in parts)
            if feature.name is not None and not (is_gone and feature.name in given):
                given[feature.name] = feature.weights
    return given
