"""The ledger of a run's damaged videos: those that could not be decoded, and the videos that took their places.

Each process appends to a file of its own, and they are merged into ``skipped.jsonl`` when training begins and when it
ends. Which videos are skipped does not depend on processes and kills, so an entry that a resumed run repeats is the
same as before and is kept once.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from featcache.errors import CorruptStoreError, VideoError
from featcache.files.publish import ensure_folder, put_replace, remove
from featcache.training import checkpoint

log = logging.getLogger(__name__)

NAME = "skipped.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Skip:
    """A video that could not be decoded in an epoch.

    Attributes:
        epoch: Number of the epoch.
        video: Id of the video.
        reason: Why it could not be decoded.
        instead: Id of the video in its place.
    """

    epoch: int
    video: str
    reason: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """How much of a run was replaced.

    Attributes:
        num_videos: Number of videos that could not be decoded at least once.
        num_times: How often another video took the place of one.
    """

    num_videos: int = 0
    num_times: int = 0

    @classmethod
    def of(cls, times: Iterable[Mapping[str, int]]) -> "Replaced":
        """The sum over seeds of how often each video was replaced."""
        listed = list(times)
        return cls(
            num_videos=len({video for each in listed for video in each}),
            num_times=sum(sum(each.values()) for each in listed),
        )

    def facts(self) -> dict[str, str]:
        """A line of a summary; none if nothing was replaced."""
        if not self.num_videos:
            return {}
        return {"replaced": f"{self.num_videos} damaged videos, {self.num_times} times; seed-N/{NAME} names them"}


NOTHING_REPLACED = Replaced()


class SkipLedger:
    """The ledger of one seed from the view of one process.

    Args:
        folder: Folder of the seed.
        run: Folder of the run, for the sentence of an error.
        rank: Number of this process.
        num_videos: Number of videos that are trained on.
        max_damaged: Share of them that may be damaged.
    """

    def __init__(self, folder: Path, *, run: Path, rank: int, num_videos: int, max_damaged: float) -> None:
        self._folder, self._run = folder, run
        self._path = folder / (NAME if rank == 0 else f"skipped-{rank}.jsonl")
        self._num_videos = num_videos
        self._max_damaged = max_damaged
        self._known: set[str] = set()

    @property
    def limit(self) -> int:
        """Number of videos that may be damaged."""
        return int(self._max_damaged * self._num_videos + 1e-9)  # 0.29 of 100 are 29

    def add(self, skip: Skip) -> None:
        """Write an entry; the first of a run is logged as a warning.

        Raises:
            VideoError: Too many videos are damaged, over all processes.
        """
        if skip.video not in self._known:
            damaged = {each.video for each in read_skips(self._folder)}
            if len(damaged | {skip.video}) > self.limit:
                raise self.too_many(skip.video, skip.reason, num_damaged=len(damaged | {skip.video}))
            if not damaged:
                log.warning(
                    "%r cannot be decoded (%s); %r takes its place. Such videos are listed in %s, and only counted "
                    "from now on",
                    skip.video,
                    skip.reason,
                    skip.instead,
                    self._folder / NAME,
                )
            self._known.add(skip.video)
        ensure_folder(self._folder)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(skip))

    def too_many(self, video: str, reason: str, *, num_damaged: int) -> VideoError:
        """The error of a run with more damaged videos than are allowed, the last of them by name."""
        return VideoError(
            "undecodable",
            f"{num_damaged} of {self._num_videos} training videos cannot be decoded, where max_damaged "
            f"{self._max_damaged:g} allows {self.limit}, e.g. {video!r} ({reason}); restore them (`featcache "
            f"scan --decode` finds them), or run the same command with a larger max_damaged and --out {self._run}",
        )


def read_skips(folder: Path) -> tuple[Skip, ...]:
    """The entries of all processes in the folder of a seed, each once, by epoch and video.

    Raises:
        CorruptStoreError: A file is damaged.
    """
    found: dict[tuple[int, str], Skip] = {}
    for path in _files(folder):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # a last line without an end is not complete
            try:
                skip = Skip(**json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise CorruptStoreError(f"{path} is damaged; restore or remove it") from error
            found[skip.epoch, skip.video] = skip
    return tuple(sorted(found.values()))


def begin_skips(folder: Path) -> None:
    """Merge the files of a run that goes on; those of a run that begins anew are removed."""
    if (folder / checkpoint.NAME).exists():
        merge_skips(folder)
    else:
        for path in _files(folder):
            remove(path)


def merge_skips(folder: Path) -> dict[str, int]:
    """Put the entries of all processes into one file; returns how often each video was replaced."""
    skips = read_skips(folder)
    if skips:
        put_replace(folder / NAME, "".join(map(_line, skips)).encode())
    for path in _files(folder):
        if path.name != NAME:
            remove(path)
    times: dict[str, int] = {}
    for skip in skips:
        times[skip.video] = times.get(skip.video, 0) + 1
    return times


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("skipped*.jsonl"))


def _line(skip: Skip) -> str:
    return json.dumps(asdict(skip)) + "\n"
