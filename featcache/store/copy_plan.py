"""The plan of a copy: generations, segments and overlays of the new store, as a pure function of what is present.

There is one generation, unless rows were computed in different ways (``encode_batch``, ``threads``), or the ids under
which two videos were planned are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import median

from featcache.data.types import VideoRecord
from featcache.store.overlay import Amendment
from featcache.store.plan import Segment, default_shard_rows, plan_segments
from featcache.store.present import Entry, Present, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCopy:
    """One generation of the new store.

    Attributes:
        entries: Its videos.
        segments: Their rows.
        num_shards: Number of shards.
        shard_rows: Largest number of rows per shard.
        encode_batch: Number of rows per forward pass with which the rows were computed.
        threads: Number of threads with which they were computed.
        amendments: What is said of the videos so far, once this generation is planned.
    """

    entries: tuple[Entry, ...]
    segments: tuple[Segment, ...]
    num_shards: int
    shard_rows: int
    encode_batch: int
    threads: int
    amendments: tuple[Amendment, ...]

    @property
    def videos(self) -> tuple[VideoRecord, ...]:
        """Its videos as they are planned."""
        return tuple(entry.planned for entry in self.entries)

    @property
    def num_rows(self) -> int:
        """Number of planned rows."""
        return sum(segment.num_rows for segment in self.segments)


def plan_copy(present: Present) -> tuple[PlannedCopy, ...]:
    """Plan the generations of a new store that holds what is present.

    Rows are packed anew, except that shards with int8 features are kept, since the rows of a shard share their scales.
    """
    generations = _generations(present)
    amendments = _amendments([entries for entries, _ in generations])
    record_bytes = [document.record.num_bytes for document in present.features.values()]
    is_quantised = any(document.record.dtype == "int8" for document in present.features.values())
    planned: list[PlannedCopy] = []
    for (entries, (encode_batch, threads)), said in zip(generations, amendments, strict=True):
        if is_quantised:
            segments, num_shards, shard_rows = _kept_shards(entries, present.sources)
        else:
            rows = [entry.num_rows for entry in entries]
            typical = int(median([number for number in rows if number] or [1]))
            shard_rows = default_shard_rows(record_bytes or [1], typical)
            segments, num_shards = plan_segments(rows, shard_rows=shard_rows)
        planned.append(
            PlannedCopy(
                entries=tuple(entries),
                segments=segments,
                num_shards=num_shards,
                shard_rows=shard_rows,
                encode_batch=encode_batch,
                threads=threads,
                amendments=said,
            )
        )
    return tuple(planned)


_How = tuple[int, int]


def _generations(present: Present) -> list[tuple[list[Entry], _How]]:
    """The entries of each generation, with the batch and the threads of their computation.

    Within a generation no two videos have the same id, neither as planned nor as shown.
    """
    groups: dict[_How, list[Entry]] = {}
    without_rows: list[Entry] = []
    for entry in present.entries:
        if entry.num_rows:
            generation = present.sources[entry.place.source].store.generations[entry.place.generation]
            groups.setdefault((generation.encode_batch, generation.threads), []).append(entry)
        else:
            without_rows.append(entry)
    if without_rows:
        first = next(one for source in present.sources for one in source.store.generations)
        groups.setdefault(next(iter(groups), (first.encode_batch, first.threads)), []).extend(without_rows)
    found: list[tuple[list[Entry], _How]] = []
    for how, entries in groups.items():
        layers: list[tuple[list[Entry], set[str], set[str]]] = []
        for entry in entries:
            planned, shown = entry.planned.id, entry.shown.id
            layer = next((one for one in layers if planned not in one[1] and shown not in one[2]), None)
            if layer is None:
                layer = ([], set(), set())
                layers.append(layer)
            layer[0].append(entry)
            layer[1].add(planned)
            layer[2].add(shown)
        found += [(layer[0], how) for layer in layers]
    return found


def _kept_shards(entries: Sequence[Entry], sources: Sequence[Source]) -> tuple[tuple[Segment, ...], int, int]:
    """Segments that keep the rows of each shard together and leave out the rows that do not count."""
    segments: list[Segment] = []
    last: tuple[int, int, int] | None = None
    shard, used, shard_rows = -1, 0, 1
    for video, entry in enumerate(entries):
        if not entry.num_rows:
            continue
        source, number, _ = entry.place
        generation = sources[source].store.generations[number]
        shard_rows = max(shard_rows, generation.shard_rows)
        for kept in sources[source].segments(entry.place):
            if (source, number, kept.shard) != last:
                last = (source, number, kept.shard)
                shard, used = shard + 1, 0
            segments.append(
                Segment(video=video, shard=shard, first_row=used, first_clip=kept.first_clip, num_rows=kept.num_rows)
            )
            used += kept.num_rows
    return tuple(segments), shard + 1, shard_rows


def _amendments(generations: Sequence[Sequence[Entry]]) -> list[tuple[Amendment, ...]]:
    """What to say of the videos after each generation, so that in the end each has its present id and split.

    An overlay is about every generation before it. Where a later generation plans another video under the same id, the
    earlier video gives it up first, for a name that nothing else has.
    """
    later: list[dict[str, set[tuple[str, bool]]]] = []
    behind: dict[str, set[tuple[str, bool]]] = {}
    for entries in reversed(generations):
        later.append({name: set(found) for name, found in behind.items()})
        for entry in entries:
            behind.setdefault(entry.planned.id, set()).add(_target(entry))
    taken = {name for entries in generations for entry in entries for name in (entry.planned.id, entry.shown.id)}
    said: list[tuple[Amendment, ...]] = []
    last: dict[str, Amendment] = {}
    for entries, others in zip(generations, reversed(later), strict=True):
        now: list[Amendment] = []
        for entry in entries:
            name = entry.planned.id
            if others.get(name, set()) - {_target(entry)}:
                name = next(free for number in count() if (free := f"{name}.{number}") not in taken)
                taken.add(name)
                now.append(Amendment(video=entry.planned.id, record=replace(entry.planned, id=name)))
            if entry.removed or (name, entry.planned.split) != (entry.shown.id, entry.shown.split):
                last[name] = Amendment(video=name, record=entry.shown, removed=entry.removed)
        said.append(tuple(sorted(now, key=lambda one: one.video)))
    if said:
        assert not said[-1], "nothing is planned behind the last generation"
        said[-1] = tuple(sorted(last.values(), key=lambda one: one.video))
    return said


def _target(entry: Entry) -> tuple[str, bool]:
    return entry.shown.id, entry.removed
