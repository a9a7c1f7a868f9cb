"""``search``: finds the clips or videos of a store that are most similar to a video or a text."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featcache.backbones.clip import is_clip
from featcache.data.hashing import content_hash
from featcache.errors import ConfigError, FeatcacheError, StoreError, VideoError
from featcache.evaluation.pooling import pooled
from featcache.evaluation.reading import read_vectors
from featcache.extract.encoder import encoder
from featcache.machine import resolve_device
from featcache.retrieval.nearest import Blocks, Engine, Floats, nearest
from featcache.store.features import Features
from featcache.store.outcomes import VideoOutcomes
from featcache.store.reader import Store, open_store
from featcache.summary import Summary, SummaryTable

By = Literal["clip", "video"]
BLOCK_ROWS = 1 << 15


@dataclass(frozen=True, slots=True)
class VideoQuery:
    """A video file, read and encoded like the store's own videos; its name seeds random clips."""

    path: str | Path


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text, for stores of vectors in CLIP's joint space of images and text."""

    text: str


Query = VideoQuery | TextQuery | Floats
"""What to search for; an array holds the query vectors themselves, float [D] or [Q, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One clip or video that was found.

    Attributes:
        rank: Rank of the hit, from 1.
        video: Id of the video.
        score: Cosine similarity with the query.
        start_seconds: Time at which the clip, or the first clip of the video, begins; ``None`` if the store has no
            times.
        end_seconds: Time at which the clip, or the last clip of the video, ends.
        label: Value of the label column, or empty.
        row: Row number; for a video that of its middle row.
        frame: Index of the frame in the middle of that row.
    """

    rank: int
    video: str
    score: float
    start_seconds: float | None
    end_seconds: float | None
    label: str
    row: int
    frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Result of a search.

    Attributes:
        store: Folder of the store.
        feature: Name of the array.
        by: Whether hits are clips or videos.
        engine: The engine that searched.
        excluded: Ids of videos that were left out because they are the query itself.
        coverage: Numbers of videos with features, failed, pending and in total: what a search can and cannot find.
        hits: The hits, best first.
        sheet: Picture of the hits that was drawn, or ``None``.
    """

    store: str
    feature: str
    by: By
    engine: Engine
    excluded: tuple[str, ...]
    coverage: VideoOutcomes
    hits: tuple[Hit, ...]
    sheet: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        coverage = self.coverage
        counts = {"ok": coverage.ok, "failed": coverage.failed, "pending": coverage.pending, "total": coverage.total}
        shallow = {name: getattr(self, name) for name in ("store", "feature", "by", "engine", "excluded")}
        return {**shallow, "coverage": counts, "hits": [asdict(hit) for hit in self.hits], "sheet": self.sheet}

    def summary(self) -> Summary:
        """The hits, and how much of the store they were chosen from."""
        rows = tuple(
            (hit.video, hit.label, hit.rank, f"{hit.score:.4f}", _shown(hit.start_seconds), _shown(hit.end_seconds))
            for hit in self.hits
        )
        title = f"{len(self.hits)} {self.by}s of {self.feature!r} most like the query"
        columns = ("video", "label", "rank", "cosine", "from s", "to s")
        coverage = self.coverage
        left_out = f", {len(self.excluded)} left out as the query itself" if self.excluded else ""
        searched = f"searched {coverage.ok} of {coverage.total} videos ({coverage.failed} failed){left_out}"
        drawn = (f"drawn to {self.sheet}",) if self.sheet is not None else ()
        return Summary(
            tables=(SummaryTable(title=title, columns=columns, rows=rows, num_text=2),), lines=(searched, *drawn)
        )


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def search(
    store: Store | str | Path,
    query: Query,
    *,
    feature: str | None = None,
    by: By = "clip",
    k: int = 10,
    engine: Engine = "exact",
    exclude_self: bool = False,
    label: str = "label",
    weights: Mapping[str, str] | None = None,
    device: str = "auto",
) -> SearchResult:
    """Find the items that are most similar to ``query``, by cosine.

    Maps and tokens are averaged over their positions. A clip's score is its best over the query's clips; a video's
    score compares the mean of its rows with the mean of the query's rows.

    Args:
        store: An open store, or its folder.
        query: A :class:`VideoQuery`, a :class:`TextQuery` or vectors.
        feature: Name of the array; may be omitted if the store has only one.
        by: ``clip``: every row is an item. ``video``: every video is an item, the mean of its rows.
        k: Number of hits to return.
        engine: ``exact`` or ``faiss``; both are exact.
        exclude_self: Leave out videos whose file has the same bytes as the query's.
        label: Label column to show.
        weights: Weights by backbone name, if those that the store was made with have moved.
        device: Device that encodes the query, and on which faiss searches if it can.

    Raises:
        ConfigError: ``k`` is not a positive number, the vectors have another width, ``exclude_self`` is given without a
            video, there is no such device, or faiss is chosen but not installed.
        UnknownNameError: There is no such feature or label column.
        FeatcacheError: The query is a text and the feature is not in a joint space with text.
        VideoError: The query cannot be read.
        WeightsError: The weights of the store's backbone cannot be found.
        StoreError: The store has no features to search.
    """
    store = store if isinstance(store, Store) else open_store(store)
    device = resolve_device(device)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 hit")
    if exclude_self and not isinstance(query, VideoQuery):
        raise ConfigError("exclude_self leaves out the query's own file, and the query is no file; drop it")
    labels = store.labels(label) if label in store.label_names or label != "label" else {}
    with store.feature(feature) as features:
        if not features.num_rows:
            raise StoreError(
                f"no video of {store.path} has features, so there is nothing to find; see `featcache info`"
            )
        queries = _vectors_of(store, query, features, weights=weights, device=device)
        if queries.shape[1] != features.shape[-1]:
            raise ConfigError(
                f"the query has {queries.shape[1]} channels, feature {features.name!r} has {features.shape[-1]}; "
                "encode it with featcache.encoder"
            )
        if by == "video":
            queries = queries.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        excluded = _same_file(store, features, query) if exclude_self and isinstance(query, VideoQuery) else ()
        scores, found = nearest(_blocks(features, by=by, excluded=excluded), queries, k=k, engine=engine, device=device)
        hits = tuple(
            _hit(features, by=by, rank=rank, item=item, score=score, labels=labels)
            for rank, (item, score) in enumerate(zip(found.tolist(), scores.tolist(), strict=True), start=1)
        )
        return SearchResult(
            store=str(store.path),
            feature=features.name,
            by=by,
            engine=engine,
            excluded=excluded,
            coverage=store.coverage(features.name),
            hits=hits,
        )


def _vectors_of(
    store: Store, query: Query, features: Features, *, weights: Mapping[str, str] | None, device: str
) -> Floats:
    """The query's vectors, float32 [Q, C]."""
    match query:
        case VideoQuery(path=path):
            encode = encoder(store.path, features=(features.name,), weights=weights, device=device)
            # Views of test videos if the store has any: a query is not a training video.
            try:
                encoded = encode(path, split="query")
            except VideoError as error:
                raise VideoError(error.status, f"the query {str(path)!r} cannot be read: {error.reason}") from error
            return pooled(encoded.features[features.name].astype(np.float32))
        case TextQuery(text=text):
            return _text_vectors(store, text, features, weights=weights, device=device)
        case _:
            return np.atleast_2d(np.asarray(query, np.float32))


def _text_vectors(
    store: Store, text: str, features: Features, *, weights: Mapping[str, str] | None, device: str
) -> Floats:
    recipe = features.recipe
    if not (is_clip(recipe.backbone) and recipe.layer == "proj" and recipe.channels is None):
        raise FeatcacheError(
            f"feature {features.name!r} ({recipe.backbone}, layer {recipe.layer}) shares no space with text; extract "
            "one with a CLIP backbone and --layer proj --output cls, or search by --video"
        )
    from featcache.backbones.clip_text import build_text  # open_clip takes seconds to import

    # Load the image tower first: its hash says whether these are the weights that the store was made with.
    encode = encoder(store.path, features=(features.name,), weights=weights, device=device)
    tower = build_text(recipe.backbone, encode.weights[features.name]).to(encode.device)
    vectors: npt.NDArray[np.float32] = tower.encode([text]).numpy()
    return vectors


def _same_file(store: Store, features: Features, query: VideoQuery) -> tuple[str, ...]:
    """Ids of the videos whose file had the same bytes as the query's."""
    own = content_hash(Path(query.path))
    return tuple(video_id for video_id in features.video_ids if store.videos[video_id].content_hash == own)


def _blocks(features: Features, *, by: By, excluded: tuple[str, ...]) -> Blocks:
    """Rows, or means of the rows of each video, without the ``excluded`` videos."""
    left_out = np.isin(np.array(features.video_ids), excluded)
    for first_video, last_video in _video_ranges(features):
        first, last = int(features.video_start[first_video]), int(features.video_start[last_video])
        vectors = read_vectors(features, first=first, last=last)
        if by == "video":
            starts = features.video_start[first_video:last_video] - first
            counts = np.diff(features.video_start[first_video : last_video + 1])[:, None]
            vectors = (np.add.reduceat(vectors, starts, axis=0, dtype=np.float64) / counts).astype(np.float32)
            items, kept = np.arange(first_video, last_video), ~left_out[first_video:last_video]
        else:
            items, kept = np.arange(first, last), ~left_out[features.video_index[first:last]]
        yield items[kept], vectors[kept]


def _video_ranges(features: Features) -> Iterator[tuple[int, int]]:
    """Ranges of whole videos with at most :data:`BLOCK_ROWS` rows, or one video that has more."""
    first, num_videos = 0, len(features.video_ids)
    while first < num_videos:
        last = int(np.searchsorted(features.video_start, features.video_start[first] + BLOCK_ROWS, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _hit(features: Features, *, by: By, rank: int, item: int, score: float, labels: Mapping[str, str]) -> Hit:
    rows = features.rows
    video = item if by == "video" else int(features.video_index[item])
    video_id = features.video_ids[video]
    first, last = (item, item + 1)
    if by == "video":
        first, last = features.video_start[video : video + 2].tolist()
    middle = (first + last - 1) // 2
    frames = rows.frames[middle]
    return Hit(
        rank=rank,
        video=video_id,
        score=score,
        start_seconds=_or_none(float(rows.t0[first:last].min())),
        end_seconds=_or_none(float(rows.t1[first:last].max())),
        label=labels.get(video_id, ""),
        row=middle,
        frame=int(frames[len(frames) // 2]) if len(frames) else -1,
    )


def _or_none(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
