"""torchcodec, an optional decoder over the system's FFmpeg: exact on most files, not on packed MPEG-4."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.base import Decoder
from featcache.data.decoding.foreign import Fetch, ForeignReader
from featcache.errors import FeatcacheError


def unavailable() -> str | None:
    """``None`` if torchcodec works on this machine, otherwise a sentence with the fix."""
    try:
        import torchcodec
    except ImportError as error:
        return f"decoder 'torchcodec' cannot be imported ({error}); run: pip install 'featcache[torchcodec]'"
    except (OSError, RuntimeError):  # some releases look for FFmpeg when they are imported
        return _NO_FFMPEG
    # The wheel contains no FFmpeg: without one the import succeeds, and only opening a video would fail.
    return None if getattr(torchcodec, "ffmpeg_major_version", True) else _NO_FFMPEG


_NO_FFMPEG = (
    "decoder 'torchcodec' finds no shared libraries of FFmpeg 4 to 8; install the system's FFmpeg "
    "(apt-get install ffmpeg, or conda install ffmpeg), or use decoder 'pyav', which brings its own"
)


def _open(path: Path) -> Fetch:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # exported without saying so

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")

    def fetch(indices: list[int]) -> npt.NDArray[np.uint8]:
        frames: npt.NDArray[np.uint8] = decoder.get_frames_at(indices).data.numpy()
        return frames

    return fetch


def open_torchcodec(path: Path) -> ForeignReader:
    """Open a video with torchcodec in exact seek mode and one thread.

    Raises:
        FeatcacheError: torchcodec is not installed, or finds no FFmpeg.
    """
    if (problem := unavailable()) is not None:
        raise FeatcacheError(problem)
    return ForeignReader(path, decoder="torchcodec", open_file=_open, errors=(RuntimeError, IndexError, ValueError))


DECODER = Decoder(
    open=open_torchcodec,
    exact=False,
    note="Returns other frames than asked on MPEG-4 with B-frames in AVI (HMDB51's own files), H.264 in AVI, "
    "MPEG streams and cut streams, and ignores mirroring.",
    problem=unavailable,
)
