"""Videos of buckets as files of this machine, so that a decoder reads them as it reads any other file.

Every use of a video reads all of its bytes anyway: its content hash says that it is the video that was scanned, and its
packets say which frame is which. So an object is fetched whole, by few large ranges, and decoded from the copy, which
has no name and is gone with this process, however that ends.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featcache.data.decoding.heartbeat import beat
from featcache.data.remote import copy_object
from featcache.errors import DeniedError, ReplacedError, UnsteadyError, VideoError
from featcache.files.urls import url_of


@contextmanager
def at_hand(path: Path) -> Iterator[Path]:
    """A video as a file of this machine, for a ``with`` block: itself, or a copy if it is in a bucket.

    Raises:
        VideoError: ``missing``: there is no such object, or it may not be read; ``changed``: it was replaced while it
            was read; ``unreadable``: the bucket failed too often.
        OSError: The machine or the network failed, not the video.
    """
    url = url_of(path)
    if url is None:
        yield path
        return
    with _nameless(suffix=path.suffix) as (file, copy):
        try:
            copy_object(url, file, on_part=beat)
        except FileNotFoundError as error:
            raise VideoError("missing", "there is no such object") from error
        except DeniedError as error:
            raise VideoError("missing", f"it may not be read ({error})") from error
        except ReplacedError as error:
            raise VideoError("changed", f"{error}; scan again to use the new one") from error
        except UnsteadyError as error:
            raise VideoError("unreadable", f"reading it fails ({error})") from error
        yield copy


@contextmanager
def _nameless(*, suffix: str) -> Iterator[tuple[BinaryIO, Path]]:
    """An empty file in the folder for temporary files, and a path by which this process can open it again."""
    if sys.platform == "linux":
        with tempfile.TemporaryFile() as file:  # without a name nothing is left of it if this process is killed
            yield file, Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(suffix=suffix) as named:
            yield named, Path(named.name)
