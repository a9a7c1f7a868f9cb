"""``diff``: what differs between two stores, compared by video and by row within the video, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from featcache.data.labels import label_columns
from featcache.errors import unknown_name
from featcache.recipes import differences
from featcache.stages import OnStage, ignore
from featcache.store.difference import Difference, FeatureDifference, OtherValue
from featcache.store.features import Features
from featcache.store.reader import Store, open_store
from featcache.store.rows import COLUMNS, RowTable
from featcache.store.settings import DiffSettings

_CHUNK_BYTES = 16 << 20
_PLACES = tuple(name for name in COLUMNS if name not in ("video", "row"))

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def diff(settings: DiffSettings, *, on_stage: OnStage = ignore) -> Difference:
    """Compare two stores; what is still to be extracted counts as an outcome.

    Args:
        settings: The stores.
        on_stage: Called with (``"compare"``, rows compared, rows in total) and the name of the feature.

    Raises:
        StoreError: There is no store.
        UnknownNameError: A store has no such feature.
        CorruptStoreError: A store is damaged.
    """
    first, second = open_store(settings.store), open_store(settings.other_store)
    common = [video for video in first.videos if video in second.videos]
    contents = [
        video
        for video in common
        if (mine := first.videos[video].content_hash)
        and (theirs := second.videos[video].content_hash)
        and mine != theirs
    ]
    names = sorted(set(first.features) & set(second.features))
    for name in settings.features or ():
        for store in (first, second):
            if name not in store.features:
                raise unknown_name(f"feature of {store.path}", name, store.features)
    chosen = names if settings.features is None else sorted(set(settings.features))
    same = set(common) - set(contents)
    alone = [sorted(set(one.features) - set(other.features)) for one, other in ((first, second), (second, first))]
    return Difference(
        stores=(settings.store, settings.other_store),
        file_formats=(first.file_format, second.file_format),
        sampling=tuple(_values(differences(first.sampling, second.sampling))),
        features_only=(tuple(alone[0]), tuple(alone[1])) if settings.features is None else ((), ()),
        videos_only=(
            tuple(video for video in first.videos if video not in second.videos),
            tuple(video for video in second.videos if video not in first.videos),
        ),
        videos_common=len(common),
        contents=tuple(contents),
        splits=tuple(_values((one, first.videos[one].split, second.videos[one].split) for one in common)),
        labels=_labels(first, second, common),
        features=tuple(_compare(first, second, name, videos=same, on_stage=on_stage) for name in chosen),
    )


def _values(triples: Iterator[tuple[str, object, object]] | Sequence[tuple[str, object, object]]) -> list[OtherValue]:
    """Those that have two values."""
    return [OtherValue(name=name, left=left, right=right) for name, left, right in triples if left != right]


def _labels(first: Store, second: Store, videos: Sequence[str]) -> dict[str, tuple[OtherValue, ...]]:
    columns = label_columns([*first.videos.values(), *second.videos.values()])
    found = {
        name: tuple(
            _values((one, first.videos[one].labels.get(name), second.videos[one].labels.get(name)) for one in videos)
        )
        for name in columns
    }
    return {name: others for name, others in found.items() if others}


def _compare(first: Store, second: Store, name: str, *, videos: set[str], on_stage: OnStage) -> FeatureDifference:
    """Compare a feature of two stores on some videos."""
    (my_recipe, my_record), (their_recipe, their_record) = first.features[name], second.features[name]
    recipe = _values(differences(my_recipe, their_recipe))
    recipe += _values(
        (f"record.{field}", value, asdict(their_record)[field])
        for field, value in asdict(my_record).items()
        if field != "dtype"  # it is the recipe's precision
    )
    with (
        first.feature(name, all_views=True, partially=True) as mine,
        second.feature(name, all_views=True, partially=True) as theirs,
    ):
        outcomes = [_outcomes(store, rows, name) for store, rows in ((first, mine), (second, theirs))]
        shared = videos.intersection(theirs.video_ids)
        both = [video for video in mine.video_ids if video in shared]
        counts = _values((one, len(mine.rows_of(one)), len(theirs.rows_of(one))) for one in both)
        compared = _Rows(name)
        if my_record.shape == their_record.shape:
            others = {one.name for one in counts}
            fitting = [video for video in both if video not in others]
            compared.run(mine, theirs, fitting, on_stage=on_stage)
        ids = [mine.video_ids[number] for number in sorted(compared.videos)]
    return FeatureDifference(
        name=name,
        recipe=tuple(recipe),
        outcomes=tuple(
            _values((one, outcomes[0].get(one, "pending"), outcomes[1].get(one, "pending")) for one in sorted(videos))
        ),
        row_counts=tuple(counts),
        rows_compared=compared.num_rows,
        rows_equal=compared.num_equal,
        largest_difference=compared.largest_difference,
        least_cosine=compared.least_cosine,
        mean_cosine=compared.cosines / compared.num_rows if compared.num_rows else 1.0,
        other_places=compared.other_places,
        videos_differing=tuple(ids),
    )


def _outcomes(store: Store, features: Features, name: str) -> dict[str, str]:
    """Status of each video that is not pending."""
    failed: dict[str, str] = {failure.id: failure.status for failure in store.coverage(name).failures}
    return {**failed, **dict.fromkeys(features.video_ids, "ok")}


class _Rows:
    """Compares rows, and keeps count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_rows = 0
        self.num_equal = 0
        self.largest_difference = 0.0
        self.least_cosine = 1.0
        self.cosines = 0.0
        self.other_places = 0
        self.videos: set[int] = set()

    def run(self, mine: Features, theirs: Features, videos: Sequence[str], *, on_stage: OnStage) -> None:
        """Compare all rows of some videos, of which both stores have as many."""
        empty = np.zeros(0, np.int64)
        left = np.concatenate([empty, *(mine.rows_of(video) for video in videos)])
        right = np.concatenate([empty, *(theirs.rows_of(video) for video in videos)])
        step = max(1, _CHUNK_BYTES // max(mine.record.num_bytes, theirs.record.num_bytes))
        on_stage("compare", 0, len(left), self.name)
        for start in range(0, len(left), step):
            self._chunk(mine, left[start : start + step], theirs, right[start : start + step])
            on_stage("compare", min(start + step, len(left)), len(left), self.name)

    def _chunk(self, mine: Features, left: Ints, theirs: Features, right: Ints) -> None:
        are_equal = _equal_to_the_bit(mine, left, theirs, right)
        self.num_rows += len(left)
        self.num_equal += int(are_equal.sum())
        self.cosines += float(are_equal.sum())
        self.other_places += int((~_same_places(mine.details(left), theirs.details(right))).sum())
        if are_equal.all():
            return
        self.videos.update(mine.video_index[left[~are_equal]].tolist())
        values = mine.gather(left[~are_equal], dequantised=True), theirs.gather(right[~are_equal], dequantised=True)
        ours, others = (one.reshape(len(one), -1).astype(np.float64) for one in values)
        cosines = _cosines(ours, others)
        self.cosines += float(cosines.sum())
        self.least_cosine = min(self.least_cosine, float(cosines.min()))
        self.largest_difference = max(self.largest_difference, float(np.abs(ours - others).max()))


def _equal_to_the_bit(mine: Features, left: Ints, theirs: Features, right: Ints) -> Mask:
    """Whether rows have the same bytes, and int8 rows the same scales, bool [n]."""
    if mine.record.dtype != theirs.record.dtype:
        return np.zeros(len(left), np.bool_)
    both = (mine.gather(left), theirs.gather(right))
    ours, others = (one.reshape(len(one), -1).view(np.uint8) for one in both)
    equal: Mask = (ours == others).all(axis=1)
    if mine.record.dtype == "int8":
        equal &= (mine.scales(left) == theirs.scales(right)).all(axis=1)
    return equal


def _cosines(ours: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows; 1 for two rows of zeros, 0 for one."""
    lengths = np.linalg.norm(ours, axis=1), np.linalg.norm(others, axis=1)
    product = lengths[0] * lengths[1]
    known = product > 0
    cosines: npt.NDArray[np.float64] = ((lengths[0] == 0) & (lengths[1] == 0)).astype(np.float64)
    cosines[known] = np.einsum("ij,ij->i", ours, others)[known] / product[known]
    return cosines


def _same_places(mine: RowTable, theirs: RowTable) -> Mask:
    """Whether rows have the same frames, times and boxes, bool [n]; what is unknown equals what is unknown."""
    if mine.frames.shape != theirs.frames.shape:
        return np.zeros(len(mine), np.bool_)
    same = np.ones(len(mine), np.bool_)
    for name in _PLACES:
        left, right = getattr(mine, name), getattr(theirs, name)
        equal = (left == right) | ((left != left) & (right != right))  # NaN is not equal to itself
        same &= equal.reshape(len(mine), -1).all(axis=1)
    return same
