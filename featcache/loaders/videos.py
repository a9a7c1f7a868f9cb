"""Videos that a method decodes while it trains: their files, opened by number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.data.decoding.copies import at_hand
from featcache.data.hashing import check_unchanged
from featcache.data.remote import is_there
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, VideoError
from featcache.files.urls import place_of, shown, url_of
from featcache.training.identity import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFile:
    """A scanned video and its file: all that a decoding process gets of the manifest.

    Attributes:
        video: Its manifest row.
        path: The file.
        decoder: Name of a registered decoder.
        is_checked: Whether the bytes of the file have been compared with the hash before.
    """

    video: VideoRecord
    path: Path
    decoder: str
    is_checked: bool = False

    def open(self) -> VideoReader:
        """Open the file, which must be the one that was scanned.

        Raises:
            VideoError: ``missing``, ``changed`` since it was scanned, or ``undecodable``.
        """
        reader = open_video(self.path, decoder=self.decoder, check=self._check)
        if (found := reader.timeline.num_frames) != self.video.num_frames:
            with reader:
                raise VideoError(
                    "undecodable",
                    f"{self.decoder} finds {found} frames in {self.path.name} where the scan found "
                    f"{self.video.num_frames}; use the decoder of the scan",
                )
        return reader

    def _check(self, file: Path) -> None:
        if not self.is_checked:
            check_unchanged(file, self.video, name=self.path.name)


class VideoFiles:
    """Videos by number, which are opened repeatedly; a file is checked against its hash when it is first read.

    Attributes:
        videos: Manifest rows of the videos.
        damaged: Why videos could not be decoded, by number, as far as that has been found.
    """

    def __init__(self, videos: Sequence[VideoRecord], paths: Sequence[Path], *, decoder: str) -> None:
        self.videos = tuple(videos)
        self.damaged: dict[int, str] = {}
        self._paths = tuple(paths)
        self._decoder = decoder
        self._checked: set[int] = set()

    @property
    def content(self) -> str:
        """Digest of the videos: their ids, their bytes and how many frames they have."""
        return digest([[video.id, video.content_hash, video.num_frames] for video in self.videos])

    def only(self, is_wanted: Callable[[VideoRecord], bool]) -> "VideoFiles":
        """The videos for which ``is_wanted`` holds, in the same order, numbered anew."""
        return self.take([number for number, video in enumerate(self.videos) if is_wanted(video)])

    def take(self, numbers: Sequence[int]) -> "VideoFiles":
        """The videos of these numbers, numbered anew."""
        paths = [self._paths[number] for number in numbers]
        return VideoFiles([self.videos[number] for number in numbers], paths, decoder=self._decoder)

    def file(self, number: int) -> VideoFile:
        """A video, for this process or another."""
        return VideoFile(
            video=self.videos[number],
            path=self._paths[number],
            decoder=self._decoder,
            is_checked=number in self._checked,
        )

    def was_read(self, number: int) -> None:
        """Note that a file was opened, so that its bytes need not be compared with the hash again."""
        self._checked.add(number)

    def open(self, number: int) -> VideoReader:
        """Open a video.

        Raises:
            VideoError: ``missing``, ``changed`` since it was scanned, or ``undecodable``.
        """
        reader = self.file(number).open()
        self.was_read(number)
        return reader

    def damage(self, number: int, error: VideoError) -> str:
        """Why a video cannot be decoded although its bytes are those that were scanned.

        Args:
            number: The video.
            error: What was raised when it was decoded.

        Raises:
            VideoError: The video is missing or has changed, so that a run must not go on without it; names it.
        """
        try:
            if error.status != "undecodable":
                raise error
            with at_hand(self._paths[number]) as file:
                check_unchanged(file, self.videos[number], name=self._paths[number].name)
        except VideoError as found:
            raise no_longer_usable(self.videos[number], found) from error
        self.damaged[number] = error.reason
        return error.reason


class DamagedError(VideoError):
    """Some videos cannot be decoded, of those that were asked for at once.

    Attributes:
        errors: What each of them raised, by its number.
    """

    def __init__(self, files: VideoFiles, errors: Mapping[int, VideoError]) -> None:
        number, error = next(iter(errors.items()))
        named = no_longer_usable(files.videos[number], error)
        super().__init__(named.status, named.reason)
        self.errors = errors


def no_longer_usable(video: VideoRecord, error: VideoError) -> VideoError:
    """The error of a run that must not go on without a video, which it names."""
    return VideoError(
        error.status,
        f"{video.id!r} passed the scan and cannot be used now ({error.reason}); restore it and run the same command "
        "again, or take it out of the source and start anew",
    )


def find_files(videos: Sequence[VideoRecord], roots: Sequence[Path], *, decoder: str, hint: str) -> VideoFiles:
    """The files of videos under the first of some folders that has them.

    Args:
        videos: Manifest rows; their paths are absolute, or relative to a root.
        roots: Folders, on this machine or in buckets. Below a single one in a bucket all are taken to be there: asking
            would take a request for each.
        decoder: Name of a registered decoder.
        hint: What to do about missing files, as the end of a sentence.

    Raises:
        ManifestError: A file is in none of the folders.
    """
    is_sure = len(roots) == 1
    paths = [
        next((place for root in roots if _may_be_opened(place := place_of(root, video.path), is_sure=is_sure)), None)
        for video in videos
    ]
    gone = [video.path for video, path in zip(videos, paths, strict=True) if path is None]
    if gone:
        where = f" below {', '.join(map(shown, roots))}" if roots else ""
        raise ManifestError(f"{len(gone)} of {len(videos)} videos are not there{where}, e.g. {gone[0]!r}; {hint}")
    return VideoFiles(videos, [path for path in paths if path is not None], decoder=decoder)


def _may_be_opened(place: Path, *, is_sure: bool) -> bool:
    return (is_sure and url_of(place) is not None) or is_there(place)
