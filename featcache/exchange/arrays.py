"""Checks that the arrays of a source fit together and make one feature, before anything is written."""

from collections.abc import Sequence

from featcache.data.manifest import id_problem
from featcache.data.types import VideoRecord
from featcache.errors import ExchangeError, ManifestError
from featcache.exchange.sample import Sample
from featcache.exchange.settings import DeclaredFeature
from featcache.recipes import Output, Precision, RecordSpec, SamplingRecipe

_AXES = {1: ("c",), 2: ("n", "c"), 3: ("h", "w", "c"), 4: ("t", "h", "w", "c")}


def check_ids(samples: Sequence[Sample]) -> None:
    """Check ids before they are used for look-ups.

    Raises:
        ManifestError: An id is unusable, or two arrays have it; names the place.
    """
    seen: dict[str, str] = {}
    for sample in samples:
        if problem := id_problem(sample.id):
            raise ManifestError(f"{sample.where}: video id {sample.id!r} {problem}; give it another")
        if sample.id in seen:
            raise ManifestError(f"{sample.where}: video id {sample.id!r} is that of {seen[sample.id]} too; rename one")
        seen[sample.id] = sample.where


def choose_record(samples: Sequence[Sample], feature: DeclaredFeature) -> RecordSpec:
    """Shape, axes and dtype that all arrays share.

    Raises:
        ExchangeError: An array differs from the first or does not hold floats, or the axes do not fit.
    """
    filled = [sample for sample in samples if sample.num_rows and sample.dtype is not None]
    if not filled:
        raise ExchangeError("no array of the source has rows; nothing can be imported")
    first = filled[0]
    assert first.shape is not None, "a sample with rows has a shape"
    for sample in filled:
        assert sample.shape is not None, "a sample with rows has a shape"
        if sample.shape[1:] != first.shape[1:] or sample.dtype != first.dtype:
            raise ExchangeError(
                f"{sample.where} has rows of {sample.dtype}{list(sample.shape[1:])}, {first.where} of "
                f"{first.dtype}{list(first.shape[1:])}; a feature has one shape and dtype, import them apart"
            )
    shape = first.shape[1:]
    axes = feature.axes or _AXES.get(len(shape))
    if axes is None or len(axes) != len(shape) or not all(shape):
        raise ExchangeError(
            f"{first.where} has rows of shape {list(shape)}, which the axes {' '.join(axes or ('none',))} do not fit; "
            "name one axis for each in feature.axes"
        )
    return RecordSpec(shape=tuple(shape), axes=tuple(axes), dtype=_precision(first, feature.precision))


def _precision(sample: Sample, asked: Precision | None) -> Precision:
    dtype = str(sample.dtype)
    if dtype not in ("float16", "float32", "float64"):
        raise ExchangeError(f"{sample.where} holds {dtype}; features are float16 or float32, convert them first")
    if dtype == "float64" and asked is None:
        raise ExchangeError(
            f"{sample.where} holds float64, which a store does not; add --precision float32 (or float16) to round it"
        )
    return asked or ("float16" if dtype == "float16" else "float32")


def output_of(feature: DeclaredFeature, record: RecordSpec) -> Output:
    """The output that is declared, or the one that the shape of a record suggests."""
    if feature.output is not None:
        return feature.output
    return "mean" if len(record.shape) == 1 else "tokens" if len(record.shape) == 2 else "map"


def check_counts(samples: Sequence[Sample], videos: Sequence[VideoRecord], sampling: SamplingRecipe) -> None:
    """Check that every video has the number of rows that the recipe fixes, if it fixes one.

    Raises:
        ExchangeError: A video has another number of rows; names the first one.
    """
    for sample, video in zip(samples, videos, strict=True):
        recipes = sampling.stored(video.split)
        recipe, expected = recipes[0], sum(one.num_clips * one.num_crops for one in recipes)
        if video.status != "ok" or recipe.temporal in ("imported", "bank") or sample.num_rows == expected:
            continue
        raise ExchangeError(
            f"{sample.where} has {sample.num_rows} rows, and sampling {recipe.temporal!r} gives a video {expected}; "
            "declare sampling.temporal 'imported', or fix the recipe"
        )
