"""The sound videos from which the corpus of damaged ones is made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[["Sources", Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sound videos that are damaged, all with the same pictures.

    Attributes:
        mp4: H.264, with the index at the end.
        faststart: The same with the index at the front.
        avi: MPEG-4, one packet per picture.
        mkv: H.264.
        webm: VP9.
        num_frames: Number of pictures of each.
    """

    mp4: Path
    faststart: Path
    avi: Path
    mkv: Path
    webm: Path
    num_frames: int
