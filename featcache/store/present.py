"""What one store or several hold together: for each video the place of the rows that count, or why it has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.data.types import Status, VideoRecord
from featcache.errors import ManifestError, RecipeMismatchError, StoreError, unknown_name
from featcache.recipes import first_difference
from featcache.store.index import current_videos, read_committed, visible_videos
from featcache.store.plan import Segment
from featcache.store.reader import Store
from featcache.store.schema import FeatureDoc

LEFT_OUT = "it was removed from the store, and its rows were left out when the store was copied"


class Place(NamedTuple):
    """A video of a plan.

    Attributes:
        source: Number of the store.
        generation: Number of the generation in that store.
        row: Row of the generation's videos table.
    """

    source: int
    generation: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Why a video has no rows of a feature.

    Attributes:
        status: Its status.
        reason: The reason, in one sentence.
        tries: How often it was tried.
    """

    status: Status
    reason: str
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A video to be planned in a copy: its rows, as far as they come from one place.

    Attributes:
        planned: The video as it is planned: under the id and the split from which its rows were computed.
        shown: The video as it is named now.
        removed: Whether it was removed; it then has no rows, and is kept so that it is not planned again.
        place: Where its rows are.
        num_rows: Number of its rows; 0 for a video that could never be used.
        features: The features whose rows are there.
    """

    planned: VideoRecord
    shown: VideoRecord
    removed: bool = False
    place: Place
    num_rows: int
    features: frozenset[str] = frozenset()


class Source:
    """A store from which is copied.

    Attributes:
        number: Its number among the stores.
        store: The store.
    """

    def __init__(self, number: int, store: Store, names: Sequence[str]) -> None:
        self.number = number
        self.store = store
        self._lost: dict[str, dict[str, Lost]] = {}
        self._places: dict[str, dict[str, Place]] = {}
        current = current_videos(store.generations, store.shown_ids)
        for name in names:
            coverage = store.coverage(name)
            if coverage.pending:
                raise StoreError(
                    f"feature {name!r} of {store.path} still lacks {coverage.pending} of {coverage.total} videos; run "
                    "the command that fills it again to finish it, or name the others with --feature"
                )
            tries = store.tries(name)
            self._lost[name] = {
                one.id: Lost(status=one.status, reason=one.reason, tries=max(1, tries[one.id]))
                for one in coverage.failures
            }
            recipe, record = store.features[name]
            document = FeatureDoc(name=name, recipe=recipe, record=record)
            committed = [read_committed(one, document) for one in store.generations]
            visible = visible_videos(committed, store.shown_ids, current)
            self._places[name] = {
                video: Place(number, generation, row)
                for generation, (names_here, mask) in enumerate(zip(store.shown_ids, visible, strict=True))
                for row in np.flatnonzero(mask).tolist()
                if (video := names_here[row]) is not None
            }
        self._usable: dict[str, Place] = {}
        self._unusable: dict[str, Place] = {}
        for generation, (names_here, mask) in enumerate(zip(store.shown_ids, current, strict=True)):
            videos = store.generations[generation].videos
            for row in np.flatnonzero(mask).tolist():
                kind = self._usable if videos[row].status == "ok" else self._unusable
                if (video := names_here[row]) is not None:
                    kind[video] = Place(number, generation, row)

    def rows_of(self, video: str, feature: str) -> Place | None:
        """Where the rows of a video that count are, or ``None`` if it has none."""
        return self._places[feature].get(video)

    def lost(self, video: str, feature: str) -> Lost | None:
        """Why a video has no rows of a feature, or ``None`` if it has some or is not in the store."""
        return self._lost[feature].get(video)

    def planned_at(self, video: str) -> Place:
        """Where a video was planned last, with rows if it ever was."""
        return self._usable.get(video) or self._unusable[video]

    def planned(self, place: Place) -> VideoRecord:
        """A video as it was planned."""
        return self.store.generations[place.generation].videos[place.row]

    def num_rows(self, place: Place) -> int:
        """Number of rows that a plan gives to a video."""
        return int(self._row_counts[place.generation][place.row])

    def segments(self, place: Place) -> tuple[Segment, ...]:
        """The rows that a plan gives to a video."""
        generation = self.store.generations[place.generation]
        first, last = np.searchsorted(generation.segment_columns["video"], [place.row, place.row + 1]).tolist()
        return generation.segments[first:last]

    @cached_property
    def _row_counts(self) -> list[npt.NDArray[Any]]:
        return [
            np.bincount(one.segment_columns["video"], one.segment_columns["num_rows"], one.plan.num_videos)
            for one in self.store.generations
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What stores hold together.

    Attributes:
        sources: The stores.
        features: The features that are copied, by name.
        entries: The videos to be planned, in the order in which their rows are read.
    """

    sources: tuple[Source, ...]
    features: Mapping[str, FeatureDoc]
    entries: tuple[Entry, ...]

    def loss(self, video: str, feature: str) -> Lost:
        """Why a video has no rows of a feature in any of the stores."""
        return next(lost for source in self.sources if (lost := source.lost(video, feature)) is not None)


def read_present(stores: Sequence[Store], *, features: Sequence[str] | None) -> Present:
    """Read what stores hold together, from their plans and records alone.

    Args:
        stores: One store, or several of the same sampling recipe and with the same features.
        features: Names of the features; ``None``: all.

    Raises:
        RecipeMismatchError: The stores differ in a recipe or a record; names the field.
        UnknownNameError: There is no such feature.
        StoreError: A feature is not complete.
        ManifestError: Two stores have one video with other contents or other labels.
        CorruptStoreError: A record or a plan is damaged.
    """
    names = _common_features(stores, features)
    first = stores[0].features
    documents = {name: FeatureDoc(name=name, recipe=first[name][0], record=first[name][1]) for name in names}
    sources = tuple(Source(number, store, names) for number, store in enumerate(stores))
    entries = [*_present_entries(sources, documents), *_removed_entries(sources)]
    return Present(sources=sources, features=documents, entries=tuple(sorted(entries, key=lambda one: one.place)))


def _common_features(stores: Sequence[Store], wanted: Sequence[str] | None) -> list[str]:
    """Names of the features to copy, after checking that the stores agree about them."""
    first, *others = stores
    for name in wanted or ():
        for store in stores:
            if name not in store.features:
                raise unknown_name(f"feature of {store.path}", name, store.features)
    names = sorted(first.features) if wanted is None else sorted(set(wanted))
    for store in others:
        if difference := first_difference(first.sampling, store.sampling):
            raise RecipeMismatchError(
                f"{store.path} was made with another sampling recipe than {first.path}: {difference}; its rows are of "
                "other clips, and belong in a store of their own"
            )
        if wanted is None and (alone := sorted(set(first.features) ^ set(store.features))):
            has, lacks = (first, store) if alone[0] in first.features else (store, first)
            raise RecipeMismatchError(
                f"{has.path} has the feature {alone[0]!r} and {lacks.path} does not; extract it there too, or name the "
                "common ones with --feature"
            )
        for name in names:
            mine, theirs = first.features[name], store.features[name]
            difference = first_difference(mine[0], theirs[0])
            if difference is None and mine[1] != theirs[1]:
                difference = f"record ({mine[1]} against {theirs[1]})"
            if difference:
                raise RecipeMismatchError(
                    f"feature {name!r} of {store.path} was made with another recipe than that of {first.path}: "
                    f"{difference}; leave it out by naming the others with --feature"
                )
    return names


def _present_entries(sources: Sequence[Source], documents: Mapping[str, FeatureDoc]) -> list[Entry]:
    entries: list[Entry] = []
    is_quantised = any(document.record.dtype == "int8" for document in documents.values())
    for video in dict.fromkeys(video for source in sources for video in source.store.videos):
        holders = [source for source in sources if video in source.store.videos]
        holder = next((one for one in holders if one.store.videos[video].status == "ok"), holders[0])
        shown = holder.store.videos[video]
        for other in holders:
            if other is not holder:
                _check_same(holder, other, video, list(documents))
        parts: dict[object, tuple[Place, set[str]]] = {}
        for name in documents:
            found = next((place for one in holders if (place := one.rows_of(video, name))), None)
            if found is not None:
                key = _alike(sources[found.source], found, shown, is_quantised=is_quantised)
                place, own = parts.setdefault(key, (found, set()))
                own.add(name)
                parts[key] = (max(place, found), own)
        for place, own in parts.values() or [(holder.planned_at(video), set[str]())]:
            entries.append(_entry(sources[place.source], place, shown, own))
    return entries


def _alike(source: Source, place: Place, shown: VideoRecord, *, is_quantised: bool) -> object:
    """A key that is equal for places whose rows can be those of one planned video.

    Rows that share int8 scales with others stay with them, so that they stay equal to the bit.
    """
    generation = source.store.generations[place.generation]
    planned = source.planned(place)
    key = (place.source, planned.id, _split(source, planned, shown), source.num_rows(place))
    return (*key, generation.encode_batch, generation.threads, place if is_quantised else None)


def _split(source: Source, planned: VideoRecord, shown: VideoRecord) -> str:
    """The split to plan a video with: the present one, unless it would be sampled otherwise with it."""
    sampling = source.store.sampling
    return shown.split if sampling.stored(planned.split) == sampling.stored(shown.split) else planned.split


def _entry(source: Source, place: Place, shown: VideoRecord, features: set[str]) -> Entry:
    if shown.status != "ok":
        return Entry(planned=shown, shown=shown, place=place, num_rows=0)
    planned = source.planned(place)
    return Entry(
        planned=replace(shown, id=planned.id, split=_split(source, planned, shown)),
        shown=shown,
        place=place,
        num_rows=source.num_rows(place),
        features=frozenset(features),
    )


def _removed_entries(sources: Sequence[Source]) -> list[Entry]:
    """Videos that were removed and that no store has; they stay out, and have no rows."""
    here = {video for source in sources for video in source.store.videos}
    removed: dict[str, Entry] = {}
    for source in sources:
        behind = len(source.store.generations)
        for row, (video, record) in enumerate(source.store.removed_videos.items()):
            if video not in here and video not in removed:
                lost = replace(record, status="missing", reason=LEFT_OUT) if record.status == "ok" else record
                place = Place(source.number, behind, row)
                removed[video] = Entry(planned=lost, shown=lost, removed=True, place=place, num_rows=0)
    return list(removed.values())


def _check_same(first: Source, second: Source, video: str, features: Sequence[str]) -> None:
    """Check that a video that two stores have is the same one in both.

    Raises:
        ManifestError: It has other contents, labels or another split; names the video.
    """
    mine, theirs = first.store.videos[video], second.store.videos[video]
    where = f"{first.store.path} and {second.store.path}"
    is_known = bool(mine.content_hash and theirs.content_hash)
    if is_known and mine.content_hash != theirs.content_hash:
        raise ManifestError(
            f"{where} have the video {video!r} with other contents ({mine.content_hash} against "
            f"{theirs.content_hash}); `featcache remove` it from one of them"
        )
    for what, left, right in (("labels", mine.labels, theirs.labels), ("split", mine.split, theirs.split)):
        if left != right:
            raise ManifestError(
                f"{where} give the video {video!r} other {what} ({left!r} against {right!r}); make them alike with "
                "`featcache relabel`"
            )
    if not is_known and mine.status == theirs.status == "ok":
        _check_same_rows(first.store, second.store, video, features)


def _check_same_rows(first: Store, second: Store, video: str, features: Sequence[str]) -> None:
    """Compare the rows of a video whose file neither store knows."""
    for name in features:
        both = [store.feature(name, all_views=True) for store in (first, second)]
        rows = [one.video(video) if video in one.video_ids else None for one in both]
        if rows[0] is not None and rows[1] is not None and not np.array_equal(rows[0], rows[1]):
            raise ManifestError(
                f"{first.path} and {second.path} have the video {video!r} with other rows of {name!r}, and do not know "
                "of which file; `featcache remove` it from one of them"
            )
