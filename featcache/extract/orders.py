"""What the client of a cluster and its workers tell each other. Picklable, and without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from featcache.extract.progress import Committed
from featcache.extract.settings import ExtractSettings

PACKAGES = ("featcache", "torch")
"""Packages of which all processes of a run need the same version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker has to know of a run.

    Attributes:
        run: Name of the run, with which its store is marked.
        settings: The resolved settings, with absolute paths.
        root: Folder to which relative paths of plans refer.
        moved: Present paths of the videos that are not where plan and root say, by id.
        seen: Some files of videos that the client sees.
        used_files: SHA-256 of each file of ``--use``, by the argument.
        weights_folder: The folder that the client searches for weights.
        versions: Versions of :data:`PACKAGES`.
        is_on_gpu: Whether the run was planned for GPUs.
        sharing: Number of workers that share a host's cores.
    """

    run: str
    settings: ExtractSettings
    root: str
    moved: Mapping[str, Path]
    seen: tuple[str, ...]
    used_files: Mapping[str, str]
    weights_folder: str
    versions: Mapping[str, str]
    is_on_gpu: bool
    sharing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOrder:
    """A shard to compute, by its place in the store.

    Attributes:
        generation: Number of the generation.
        shard: Number of the shard.
        features: The arrays that it lacks.
    """

    generation: int
    shard: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Counters of a session.

    Attributes:
        session: Name of the session.
        worker: Address of its worker.
        rows: Number of encoded rows of shards that are not committed yet.
        frames: Number of frames of those rows.
        videos: Number of finished segments of such shards.
        decode_wait_seconds: As in :class:`~featcache.extract.progress.Progress`, since the session began.
        encode_seconds: As there.
        commit_seconds: As there.
    """

    session: str
    worker: str
    rows: int = 0
    frames: int = 0
    videos: int = 0
    decode_wait_seconds: float = 0.0
    encode_seconds: float = 0.0
    commit_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A warning that a session has logged, e.g. about a video.

    Attributes:
        logger: Name of the logger.
        level: Its level.
        message: The line.
    """

    logger: str
    level: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What has become of an order.

    Attributes:
        order: The order.
        worker: Address of the worker.
        outcome: ``committed``; ``elsewhere``: another process has claimed it; ``unfit``: this worker cannot compute any
            shard; ``failed``: another worker may succeed with it; ``impossible``: no worker can compute it.
        sentence: Why it is not committed.
        committed: What was committed.
        telling: Counters of the session; ``None`` if none could be opened.
    """

    order: ShardOrder
    worker: str
    outcome: Literal["committed", "elsewhere", "unfit", "failed", "impossible"]
    sentence: str = ""
    committed: Committed = field(default_factory=Committed)
    telling: Telling | None = None


def other_version(package: str, found: str, *, wanted: str) -> str:
    """What to say of a worker with another version of a package."""
    return f"it has {package} {found}, and this run {wanted}; install the same version on all machines"
