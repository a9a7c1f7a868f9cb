"""Reading the members of a sealed document, none of which is believed before it was checked."""

import base64
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from featcache.data.types import STATUSES, VideoOutcome
from featcache.errors import CorruptStoreError, FeatcacheError, StoreError
from featcache.recipes import FeatureRecipe, Precision, RecordSpec, SamplingRecipe, from_dict
from featcache.store.plan import MAX_ENCODE_BATCH, MAX_PLANNED_ROWS, MAX_SHARD_BYTES, MAX_THREADS

FORMAT = "featcache"
VERSION = 3


def new_document(kind: str, members: dict[str, Any], *, version: int = 1) -> dict[str, Any]:
    """A document with the version that introduced it, so that documents that did not change keep their bytes."""
    return {"format": FORMAT, "version": version, "kind": kind, **members}


def open_document(document: Mapping[str, Any], *, kind: str, where: object) -> Mapping[str, Any]:
    """Check format, version and kind of a sealed document before anything else of it is read."""
    if document.get("format") != FORMAT:
        raise StoreError(f"{where} has format {document.get('format')!r}, not {FORMAT!r}; it is not a featcache store")
    version = document.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(f"{where} has version {version}, this build reads <= {VERSION}; upgrade featcache")
    if document.get("kind") != kind:
        raise CorruptStoreError(f"{where} is a {document.get('kind')!r} where a {kind!r} belongs; restore it")
    return document


def read_member(document: Mapping[str, Any], name: str, kind: type, *, where: object) -> Any:
    """A member that must have a type; a bool is no int.

    Raises:
        CorruptStoreError: It is missing or of another type.
    """
    value = document.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CorruptStoreError(f"{where} has no usable member {name!r} ({value!r}); restore it from a copy")
    return value


def read_count(document: Mapping[str, Any], name: str, *, where: object) -> int:
    """A whole number from 0 to the limit of its name.

    Raises:
        CorruptStoreError: It is none.
    """
    value: int = read_member(document, name, int, where=where)
    if not 0 <= value <= _LIMITS.get(name, _MAX_BYTES):
        raise CorruptStoreError(f"{where} has {name} {value}; restore it from a copy")
    return value


# Limits of counts, checked before use: arithmetic stays in 64 bits, and a plan cannot request absurd amounts of memory.
_MAX_BYTES = 1 << 62
_LIMITS = {
    "shard_rows": MAX_PLANNED_ROWS,
    "block_bytes": MAX_SHARD_BYTES,
    "encode_batch": MAX_ENCODE_BATCH,
    "threads": MAX_THREADS,
}
_MAX_RECORD_BYTES = 1 << 34


def read_value(kind: type[Any], document: Mapping[str, Any], name: str, *, where: object) -> Any:
    """A recipe or record from a document with arbitrary contents."""
    members = read_member(document, name, dict, where=where)
    try:
        found = from_dict(kind, members)
        # Only for validation: its result has other types (1.0 for 1), and therefore another hash.
        _TYPED[kind].validate_python(members)
    except (TypeError, ValueError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        if isinstance(error, FeatcacheError):
            raise
        why = " ".join(str(error).split())[:200]
        raise CorruptStoreError(f"{where} has no usable member {name!r} ({why}); restore it from a copy") from error
    return found


_TYPED = {kind: TypeAdapter[Any](kind) for kind in (SamplingRecipe, FeatureRecipe, RecordSpec)}


def read_record_spec(document: Mapping[str, Any], *, where: object) -> RecordSpec:
    """The member ``record``: shape, axes and dtype of a row.

    Raises:
        CorruptStoreError: It is none, or absurdly large.
    """
    record: RecordSpec = read_value(RecordSpec, document, "record", where=where)
    sizes_are_counts = isinstance(record.shape, tuple) and all(type(size) is int for size in record.shape)
    is_known = bool(record.shape and sizes_are_counts and record.dtype in get_args(Precision))
    if not is_known or record.num_bytes > _MAX_RECORD_BYTES:
        raise CorruptStoreError(f"{where} has no usable member 'record' ({record}); restore it from a copy")
    return record


def check_identity(document: Mapping[str, Any], identity: Mapping[str, Any], *, where: object) -> None:
    """Compare the members that tie a document to its place.

    Raises:
        CorruptStoreError: One of them differs.
    """
    for name, expected in identity.items():
        found = document.get(name)
        if type(found) is not type(expected) or found != expected:  # True equals 1, -0.0 equals 0
            raise CorruptStoreError(
                f"{where} has {name} {found!r:.200} where {expected!r} belongs; "
                "files were swapped or come from another store"
            )


def read_outcome(entry: Any, *, where: object) -> VideoOutcome:
    """An entry of ``failed``: a segment whose rows are absent, and why.

    Raises:
        CorruptStoreError: It is none.
    """
    if not isinstance(entry, dict) or entry.get("status") not in STATUSES or entry["status"] == "ok":
        raise CorruptStoreError(f"{where} lists a failed video without a known status; restore it from a copy")
    return VideoOutcome(
        id=read_member(entry, "id", str, where=where),
        status=entry["status"],
        reason=read_member(entry, "reason", str, where=where),
        first_row=read_count(entry, "first_row", where=where),
        num_rows=read_count(entry, "num_rows", where=where),
        tries=read_count(entry, "tries", where=where) if "tries" in entry else 1,
    )


def to_base64(array: npt.NDArray[Any]) -> str:
    """The bytes of an array as text."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def from_base64(text: Any, dtype: str, *, where: object) -> npt.NDArray[Any]:
    """The array that :func:`to_base64` has written.

    Raises:
        CorruptStoreError: The text is none.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except (TypeError, ValueError) as error:
        raise CorruptStoreError(f"{where} has an array that cannot be read; restore it from a copy") from error
