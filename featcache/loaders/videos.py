"""Videos that a method decodes while it trains: their files, opened by number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.data.hashing import check_unchanged
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, VideoError
from featcache.training.identity import digest


class VideoFiles:
    """Videos by number, which are opened repeatedly; a file is checked against its hash when it is first opened.

    Attributes:
        videos: Manifest rows of the videos.
    """

    def __init__(self, videos: Sequence[VideoRecord], paths: Sequence[Path], *, decoder: str) -> None:
        self.videos = tuple(videos)
        self._paths = tuple(paths)
        self._decoder = decoder
        self._checked: set[int] = set()

    @property
    def content(self) -> str:
        """Digest of the videos: their ids, their bytes and how many frames they have."""
        return digest([[video.id, video.content_hash, video.num_frames] for video in self.videos])

    def only(self, is_wanted: Callable[[VideoRecord], bool]) -> "VideoFiles":
        """The videos for which ``is_wanted`` holds, in the same order, numbered anew."""
        kept = [number for number, video in enumerate(self.videos) if is_wanted(video)]
        paths = [self._paths[number] for number in kept]
        return VideoFiles([self.videos[number] for number in kept], paths, decoder=self._decoder)

    def open(self, number: int) -> VideoReader:
        """Open a video.

        Raises:
            VideoError: ``missing``, ``changed`` since it was scanned, or ``undecodable``.
        """
        is_checked = number in self._checked
        reader = open_scanned_file(
            self._paths[number], self.videos[number], decoder=self._decoder, is_checked=is_checked
        )
        self._checked.add(number)
        return reader

    def path(self, number: int) -> Path:
        """The file of a video."""
        return self._paths[number]

    @contextmanager
    def open_scanned(self, number: int) -> Iterator[VideoReader]:
        """Open a video for a block of a run that must not go on without it.

        Raises:
            VideoError: The video was usable when it was scanned, and no longer is; names it.
        """
        try:
            with self.open(number) as reader:
                yield reader
        except VideoError as error:
            raise no_longer_usable(self.videos[number], error) from error


def open_scanned_file(path: Path, video: VideoRecord, *, decoder: str, is_checked: bool = False) -> VideoReader:
    """Open the file of a scanned video, which must be the one that was scanned.

    Args:
        path: The file.
        video: Its manifest row.
        decoder: Name of a registered decoder.
        is_checked: Whether its bytes have been compared with the hash before.

    Raises:
        VideoError: ``missing``, ``changed`` since it was scanned, or ``undecodable``.
    """
    if not is_checked:
        check_unchanged(path, video)
    reader = open_video(path, decoder=decoder)
    if reader.timeline.num_frames != video.num_frames:
        raise VideoError(
            "undecodable",
            f"{decoder} finds {reader.timeline.num_frames} frames in {path.name} where the scan found "
            f"{video.num_frames}; use the decoder of the scan",
        )
    return reader


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
        roots: Folders.
        decoder: Name of a registered decoder.
        hint: What to do about missing files, as the end of a sentence.

    Raises:
        ManifestError: A file is in none of the folders.
    """
    paths = [next((root / video.path for root in roots if (root / video.path).is_file()), None) for video in videos]
    gone = [video.path for video, path in zip(videos, paths, strict=True) if path is None]
    if gone:
        where = f" below {', '.join(str(root) for root in roots)}" if roots else ""
        raise ManifestError(f"{len(gone)} of {len(videos)} videos are not there{where}, e.g. {gone[0]!r}; {hint}")
    return VideoFiles(videos, [path for path in paths if path is not None], decoder=decoder)
