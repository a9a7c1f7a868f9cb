"""Labels of videos by column."""

from collections.abc import Iterable, Mapping

from featcache.data.types import VideoRecord
from featcache.errors import unknown_name


def label_columns(videos: Iterable[VideoRecord]) -> tuple[str, ...]:
    """Label columns of some videos, ``label`` first."""
    names = {name for video in videos for name in video.labels}
    return tuple(sorted(names, key=lambda name: (name != "label", name)))


def labels_in(videos: Mapping[str, VideoRecord], column: str) -> dict[str, str]:
    """Video id to label, for the videos that have one.

    Raises:
        UnknownNameError: There is no such label column.
    """
    if column not in (columns := label_columns(videos.values())):
        raise unknown_name("label column", column, columns)
    return {video_id: video.labels[column] for video_id, video in videos.items() if column in video.labels}
