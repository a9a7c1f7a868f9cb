"""The path of each file of a store; every path is derived, none is read from a file."""

import re
from typing import Literal

from featcache.errors import ConfigError

FileFormat = Literal["zarr", "hdf5"]

ROOT = "featcache.json"
GROUP = "zarr.json"
FEATURES = "features"
CONFIG = "config"
PLANNED = "plans"
OVERLAYS = "overlays"
STORE_LOCK = "locks/store.lock"
PLANNING_LOCK = "locks/planning.lock"
DOUBTS = "locks/doubts"
DISK = "locks/disk.json"  # what the disk lacks; written and read by featcache.files.disks

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_RESERVED_NAMES = {"commits", "rows"}
_RESERVED_ENDS = (".scale", ".json", ".parquet", ".tmp")


def check_feature_name(name: str) -> None:
    """Refuse names that cannot be the name of a single folder.

    Raises:
        ConfigError: The name breaks the rule, which the message states.
    """
    if not _SLUG.fullmatch(name) or name in _RESERVED_NAMES or name.endswith(_RESERVED_ENDS):
        raise ConfigError(
            f"feature name {name!r} cannot be a folder of the store; use up to 100 letters, digits, '.', '_' or '-', "
            f"starting with a letter or digit, not {' or '.join(sorted(_RESERVED_NAMES))}, "
            f"and not ending in {', '.join(_RESERVED_ENDS)}"
        )


def feature(name: str) -> str:
    """Sealed recipe of a feature."""
    return f"{FEATURES}/{name}.json"


def generation(number: int) -> str:
    """Folder of a generation."""
    return f"g{number:03d}"


def generation_number(folder: str) -> int | None:
    """Number of a generation from the name of its folder, or ``None`` for another name."""
    match = re.fullmatch(r"g(\d{3,6})", folder, re.ASCII)
    return int(match[1]) if match and folder == generation(int(match[1])) else None


def plan(number: int) -> str:
    """Sealed plan of a generation."""
    return f"{generation(number)}/plan.json"


def planned(number: int) -> str:
    """Sealed note that a generation was planned; it is outside of the generation's folder, to notice its loss."""
    return f"{PLANNED}/{number:03d}.json"


def planned_number(file_name: str) -> int | None:
    """Generation from the file name of such a note, or ``None`` for another name."""
    match = re.fullmatch(r"(\d{3,6})\.json", file_name, re.ASCII)
    return int(match[1]) if match and file_name == f"{int(match[1]):03d}.json" else None


def overlay(number: int) -> str:
    """Sealed overlay."""
    return f"{OVERLAYS}/{number:03d}.json"


def overlay_table(number: int, sha256: str) -> str:
    """An overlay's table, named by content."""
    return f"{OVERLAYS}/{number:03d}-{sha256[:16]}.parquet"


def overlay_number(file_name: str) -> int | None:
    """Number of an overlay from its file name, or ``None`` for another name."""
    return planned_number(file_name)  # numbered in the same way


def table(number: int, kind: Literal["videos", "segments"], sha256: str) -> str:
    """A plan's table; the name carries its hash, so that two writers of one number never share a file."""
    return f"{generation(number)}/{kind}-{sha256[:16]}.parquet"


def rows(number: int, shard: int, sha256: str) -> str:
    """Row table of a shard, named by content."""
    return f"{generation(number)}/rows/{shard:05d}-{sha256[:16]}.parquet"


def array(number: int, name: str) -> str:
    """Folder of a feature's array in a generation."""
    return f"{generation(number)}/{name}"


def scale_array(number: int, name: str) -> str:
    """Folder of the Zarr array of int8 scales."""
    return f"{generation(number)}/{name}.scale"


def scale_chunk(number: int, name: str, shard: int) -> str:
    """Chunk of the scale array that belongs to a shard."""
    return f"{scale_array(number, name)}/c/{shard}/0"


def data(file_format: FileFormat, number: int, name: str, shard: int, *, record_ndim: int) -> str:
    """Data file of a shard."""
    if file_format == "hdf5":
        return f"{array(number, name)}/{shard:05d}.h5"
    return f"{array(number, name)}/c/{shard}" + "/0" * record_ndim


def commits(number: int, name: str) -> str:
    """Folder of a feature's commit records."""
    return f"{generation(number)}/commits/{name}"


def commit(number: int, name: str, shard: int) -> str:
    """Commit record of a shard."""
    return f"{commits(number, name)}/{shard:05d}.json"


def complete(number: int, name: str) -> str:
    """Sealed note that a feature of a generation has all its commit records, and which."""
    return f"{commits(number, name)}/complete.json"


def doubts(number: int, name: str) -> str:
    """Folder of the notes of writers that replace files of shards of a feature."""
    return f"{DOUBTS}/{generation(number)}/{name}"


def doubt_shard(file_name: str) -> int | None:
    """Shard from the file name of such a note, or ``None`` for another name."""
    match = re.fullmatch(r"(\d{5,9})-[0-9a-f]{16}", file_name, re.ASCII)
    return int(match[1]) if match else None


def is_doubt(name: str) -> bool:
    """Whether a name is that of such a note."""
    return name.startswith(f"{DOUBTS}/")


def commit_shard(file_name: str) -> int | None:
    """Shard from the file name of a commit record, or ``None`` for another name."""
    match = re.fullmatch(r"(\d{5,9})\.json", file_name, re.ASCII)
    return int(match[1]) if match and file_name == f"{int(match[1]):05d}.json" else None


def claim_lock(number: int, shard: int) -> str:
    """Lock that is held by the writer that works on a shard."""
    return f"locks/{generation(number)}-{shard:05d}.claim"


def publish_lock(number: int, shard: int) -> str:
    """Lock that is held while a shard's files are published."""
    return f"locks/{generation(number)}-{shard:05d}.publish"


def mark(token: str) -> str:
    """Empty file by which a process that sees the same store knows it; lasts as long as a run."""
    return f"locks/{token}.mark"
