"""Places in buckets, which are named by URLs. Pure functions of text.

A place is a ``Path`` nearly everywhere, also one in a bucket: of a URL ``pathlib`` makes ``s3:/bucket/name``, by which
nobody means a path of this machine, and :func:`url_of` makes the URL of it again.
"""

import posixpath
import re
from pathlib import Path

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
"""Schemes of the URLs of buckets."""
_URL = re.compile(rf"({'|'.join(SCHEMES)})://(.*)", re.DOTALL)
_URL_AS_PATH = re.compile(rf"({'|'.join(SCHEMES)}):/(.*)", re.DOTALL)


def url_of(place: str | Path) -> str | None:
    """The URL that a place stands for; ``None`` for a path of this machine."""
    match = (_URL if isinstance(place, str) else _URL_AS_PATH).match(str(place))
    return match and f"{match[1]}://{match[2]}"


def without_scheme(path: str) -> str:
    """A path, or what stands behind the scheme of a URL."""
    match = _URL.match(path)
    return match[2] if match else path


def shown(place: str | Path) -> str:
    """A place in the form in which people write it."""
    return url_of(place) or str(place)


def absolute(place: Path) -> str:
    """A place as text that means the same from every folder."""
    return url_of(place) or str(place.absolute())


def beside(folder: str, path: str) -> str:
    """The URL of a path that leads out of the folder of a URL; the path itself if it leads out of the bucket."""
    bucket, _, key = folder.partition("://")[2].partition("/")
    inside = posixpath.normpath(f"{key}/{path}" if key else path)
    return path if inside.split("/")[0] == ".." else f"{folder.partition('://')[0]}://{bucket}/{inside}"


def place_of(root: str | Path, path: str) -> Path:
    """The place of a path of a manifest, which is relative to the root, absolute, or a URL."""
    return Path(path) if url_of(path) is not None else Path(root) / path
