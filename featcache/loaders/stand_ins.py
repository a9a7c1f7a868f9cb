"""Videos that take the places of damaged ones: those that passed the scan, are unchanged, and cannot be decoded.

Which video takes a place is a function of the run's seed, the epoch and the damaged video, so that it is the same for
any number of processes and after a kill.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from featcache.errors import VideoError
from featcache.loaders.videos import VideoFiles
from featcache.seeding import rng_for
from featcache.training.skips import Skip, SkipLedger


class StandIns:
    """The videos of a seed that may take the place of one, and the ledger of those that did.

    Args:
        files: All videos.
        among: int64 [A], numbers of the videos that are trained on; ``None``: all.
        seed: Seed of the run.
        skips: The ledger.
    """

    def __init__(
        self, files: VideoFiles, *, seed: int, skips: SkipLedger, among: npt.NDArray[np.int64] | None = None
    ) -> None:
        self._files = files
        self._among = np.arange(len(files.videos)) if among is None else among
        self._seed = seed
        self._skips = skips

    @classmethod
    def of(
        cls, files: VideoFiles | None, *, among: npt.NDArray[np.int64], seed: int, skips: SkipLedger
    ) -> "StandIns | None":
        """Those of a source of clips; ``None`` if it reads stored rows."""
        return None if files is None else cls(files, among=among, seed=seed, skips=skips)

    def seat(self, video: int, *, epoch: int) -> "Seat":
        """A place in a batch of an epoch for a video."""
        return Seat(self, video, epoch=epoch)

    def candidates(self, video: int, *, epoch: int) -> Iterator[int]:
        """The videos to try in the place of one, no more of them than may be damaged."""
        order = rng_for(self._seed, "in the place of", epoch, video).permutation(self._among)
        yield from order[order != video][: self._skips.limit].tolist()

    def reason(self, video: int, error: VideoError) -> str:
        """Why a video is damaged; see :meth:`featcache.loaders.videos.VideoFiles.damage` for the errors."""
        return self._files.damage(video, error)

    def too_many(self, seat: "Seat", *, num_damaged: int) -> VideoError:
        """The error for a place for which too many videos in a row are damaged."""
        return self._skips.too_many(self._files.videos[seat.asked].id, seat.reason, num_damaged=num_damaged)

    def record(self, seat: "Seat") -> None:
        """Write into the ledger that another video has taken a place; see :meth:`Seat.record` for the errors."""
        asked, taken = (self._files.videos[number].id for number in (seat.asked, seat.video))
        self._skips.add(Skip(epoch=seat.epoch, video=asked, reason=seat.reason, instead=taken))


class Seat:
    """A place in a batch; see :meth:`StandIns.seat`.

    Attributes:
        asked: Number of the video whose place it is.
        epoch: Number of the epoch.
        video: Number of the video that has the place now.
        reason: Why ``asked`` is damaged; empty if it is not.
    """

    def __init__(self, stand_ins: StandIns, video: int, *, epoch: int) -> None:
        self.asked = self.video = video
        self.epoch = epoch
        self.reason = ""
        self._stand_ins = stand_ins
        self._candidates: Iterator[int] | None = None
        self._num_damaged = 0

    def record(self) -> None:
        """Write into the ledger that another video has the place, if one has.

        Raises:
            VideoError: Too many videos are damaged.
        """
        if self.video != self.asked:
            self._stand_ins.record(self)

    def give_up(self, error: VideoError) -> None:
        """Give the place to the next video, as the one that has it cannot be decoded.

        Raises:
            VideoError: It is missing or has changed, or too many videos in a row cannot be decoded.
        """
        reason = self._stand_ins.reason(self.video, error)
        self.reason = self.reason or reason
        self._num_damaged += 1
        if self._candidates is None:
            self._candidates = self._stand_ins.candidates(self.asked, epoch=self.epoch)
        following = next(self._candidates, None)
        if following is None:
            raise self._stand_ins.too_many(self, num_damaged=self._num_damaged)
        self.video = following
