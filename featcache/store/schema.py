"""The sealed documents of a store as dataclasses; docs/store-format.md is their normative description."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from featcache.data.types import STATUSES, VideoOutcome
from featcache.errors import CorruptStoreError, FeatcacheError, StoreError
from featcache.recipes import FeatureRecipe, Precision, RecordSpec, SamplingRecipe, from_dict, recipe_hash, to_dict
from featcache.store.paths import FileFormat
from featcache.store.plan import MAX_ENCODE_BATCH, MAX_PLANNED_ROWS, MAX_THREADS

FORMAT = "featcache"
VERSION = 2


def _document(kind: str, members: dict[str, Any], *, version: int = 1) -> dict[str, Any]:
    """A document with the version that introduced it, so that documents that did not change keep their bytes."""
    return {"format": FORMAT, "version": version, "kind": kind, **members}


def _open(document: Mapping[str, Any], *, kind: str, where: object) -> Mapping[str, Any]:
    """Check format, version and kind of a sealed document before anything else of it is read."""
    if document.get("format") != FORMAT:
        raise StoreError(f"{where} has format {document.get('format')!r}, not {FORMAT!r}; it is no featcache store")
    version = document.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(f"{where} has version {version}, this build reads <= {VERSION}; upgrade featcache")
    if document.get("kind") != kind:
        raise CorruptStoreError(f"{where} is a {document.get('kind')!r} where a {kind!r} belongs; restore it")
    return document


def _member(document: Mapping[str, Any], name: str, kind: type, *, where: object) -> Any:
    value = document.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CorruptStoreError(f"{where} has no usable member {name!r} ({value!r}); restore it from a copy")
    return value


def _count(document: Mapping[str, Any], name: str, *, where: object) -> int:
    value: int = _member(document, name, int, where=where)
    if not 0 <= value <= _LIMITS.get(name, _MAX_BYTES):
        raise CorruptStoreError(f"{where} has {name} {value}; restore it from a copy")
    return value


# Limits of counts, checked before use: arithmetic stays in 64 bits, and a plan cannot request absurd amounts of memory.
_MAX_BYTES = 1 << 62
_LIMITS = {"shard_rows": MAX_PLANNED_ROWS, "encode_batch": MAX_ENCODE_BATCH, "threads": MAX_THREADS}
_MAX_RECORD_BYTES = 1 << 34


def _value(kind: type[Any], document: Mapping[str, Any], name: str, *, where: object) -> Any:
    """A recipe or record from a document with arbitrary contents."""
    members = _member(document, name, dict, where=where)
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


def _record(document: Mapping[str, Any], *, where: object) -> RecordSpec:
    record: RecordSpec = _value(RecordSpec, document, "record", where=where)
    sizes_are_counts = isinstance(record.shape, tuple) and all(type(size) is int for size in record.shape)
    is_known = bool(record.shape and sizes_are_counts and record.dtype in get_args(Precision))
    if not is_known or record.num_bytes > _MAX_RECORD_BYTES:
        raise CorruptStoreError(f"{where} has no usable member 'record' ({record}); restore it from a copy")
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class RootDoc:
    """``featcache.json``: the description of the store. Its publication creates the store."""

    sampling: SamplingRecipe
    file_format: FileFormat

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return _document(
            "store",
            {
                "file_format": self.file_format,
                "sampling": to_dict(self.sampling),
                "sampling_hash": recipe_hash(self.sampling),
            },
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: object) -> Self:
        """Read the document; raises StoreError for a newer version or an unknown file format."""
        _open(document, kind="store", where=where)
        if document.get("file_format") not in get_args(FileFormat):
            raise StoreError(f"{where} has file format {document.get('file_format')!r}; this build reads zarr and hdf5")
        return cls(
            sampling=_value(SamplingRecipe, document, "sampling", where=where),
            file_format=document["file_format"],
        )


@dataclass(frozen=True, kw_only=True)
class FeatureDoc:
    """``features/<name>.json``: the description of one array."""

    name: str
    recipe: FeatureRecipe
    record: RecordSpec

    @cached_property
    def recipe_hash(self) -> str:
        """Identity of the recipe, which every commit record repeats."""
        return recipe_hash(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return _document(
            "feature",
            {
                "name": self.name,
                "recipe": to_dict(self.recipe),
                "recipe_hash": self.recipe_hash,
                "record": to_dict(self.record),
            },
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, name: str, where: object) -> Self:
        """Read the document and check that it belongs to ``name``."""
        _open(document, kind="feature", where=where)
        if document.get("name") != name:
            raise CorruptStoreError(f"{where} describes feature {document.get('name')!r}; files were swapped")
        return cls(
            name=name,
            recipe=_value(FeatureRecipe, document, "recipe", where=where),
            record=_record(document, where=where),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRef:
    """A reference to a Parquet file by its content; the file's name follows from the hash."""

    sha256: str
    num_bytes: int

    @classmethod
    def from_json(cls, document: Any, *, where: object) -> Self:
        """Read it."""
        if not isinstance(document, dict):
            raise CorruptStoreError(f"{where} lacks the hash of a table; restore it from a copy")
        sha256 = _member(document, "sha256", str, where=where)
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise CorruptStoreError(f"{where} has {sha256!r} for a SHA-256; restore it from a copy")
        return cls(sha256=sha256, num_bytes=_count(document, "num_bytes", where=where))

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return {"sha256": self.sha256, "num_bytes": self.num_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDoc:
    """``gNNN/plan.json``: an immutable plan. Its checksum is the plan hash."""

    generation: int
    sampling_hash: str
    shard_rows: int
    num_shards: int
    num_videos: int
    encode_batch: int
    threads: int
    videos: TableRef
    segments: TableRef

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        counts = {name: getattr(self, name) for name in _PLAN_COUNTS}
        tables = {"videos": self.videos.to_json(), "segments": self.segments.to_json()}
        # A later generation may replace files of an earlier one, a rule that version 1 did not have.
        version = 2 if self.generation else 1
        return _document("plan", {**counts, **tables, "sampling_hash": self.sampling_hash}, version=version)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, generation: int, sampling_hash: str, where: object) -> Self:
        """Read the document and check that it belongs to this generation of this store."""
        _open(document, kind="plan", where=where)
        if _count(document, "generation", where=where) != generation or document.get("sampling_hash") != sampling_hash:
            raise CorruptStoreError(f"{where} is the plan of another generation or store; files were swapped")
        plan = cls(
            sampling_hash=sampling_hash,
            videos=TableRef.from_json(document.get("videos"), where=where),
            segments=TableRef.from_json(document.get("segments"), where=where),
            **{name: _count(document, name, where=where) for name in _PLAN_COUNTS},
        )
        if plan.shard_rows < 1:
            raise CorruptStoreError(f"{where} has shards of {plan.shard_rows} rows; restore it from a copy")
        return plan


_PLAN_COUNTS = ("generation", "shard_rows", "num_shards", "num_videos", "encode_batch", "threads")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataRef:
    """A shard's data file.

    Attributes:
        num_bytes: Size of the file.
        frame_crc32c: CRC-32C of the bytes that belong to no block, in order.
        data_offset: Offset of the first block.
        block_rows: Number of rows per block.
        block_crc32c: uint32 [written blocks], CRC-32C of each block's bytes.
    """

    num_bytes: int
    frame_crc32c: int
    data_offset: int
    block_rows: int
    block_crc32c: npt.NDArray[np.uint32]

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return {
            "num_bytes": self.num_bytes,
            "frame_crc32c": self.frame_crc32c,
            "data_offset": self.data_offset,
            "block_rows": self.block_rows,
            "block_crc32c": _to_base64(self.block_crc32c.astype("<u4")),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: object) -> Self:
        """Read it."""
        return cls(
            block_crc32c=_from_base64(document.get("block_crc32c"), "<u4", where=where).astype(np.uint32),
            **{name: _count(document, name, where=where) for name in _DATA_COUNTS},
        )


_DATA_COUNTS = ("num_bytes", "frame_crc32c", "data_offset", "block_rows")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CommitDoc:
    """``gNNN/commits/<feature>/<shard>.json``: the commit point of one feature of one shard.

    Attributes:
        feature: Name of the array.
        recipe_hash: Hash of the feature recipe.
        plan_hash: Hash of the generation's plan.
        generation: Generation number.
        shard: Shard number.
        rows: The row table of the present rows.
        data: The data file; ``None`` if no row is present.
        int8_scale: float32 [C] for int8, otherwise ``None``.
        num_ok: Number of planned segments whose rows are present.
        failed: Planned segments whose rows are absent, with the reason; all others are ``ok``.
        provenance: Library versions and device; recorded, but not part of the identity.
        checksum: Checksum of the sealed record; empty before it is sealed.
    """

    feature: str
    recipe_hash: str
    plan_hash: str
    generation: int
    shard: int
    rows: TableRef
    data: DataRef | None
    int8_scale: npt.NDArray[np.float32] | None
    num_ok: int
    failed: tuple[VideoOutcome, ...]
    provenance: Mapping[str, Any]
    checksum: str = ""

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return _document(
            "commit",
            {
                "feature": self.feature,
                "recipe_hash": self.recipe_hash,
                "plan_hash": self.plan_hash,
                "generation": self.generation,
                "shard": self.shard,
                "rows": self.rows.to_json(),
                "data": self.data.to_json() if self.data else None,
                "int8_scale": None if self.int8_scale is None else _to_base64(self.int8_scale.astype("<f4")),
                "num_ok": self.num_ok,
                "failed": [
                    {
                        "id": outcome.id,
                        "status": outcome.status,
                        "reason": outcome.reason,
                        "first_row": outcome.first_row,
                        "num_rows": outcome.num_rows,
                    }
                    for outcome in self.failed
                ],
                "provenance": dict(self.provenance),
            },
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, identity: Mapping[str, Any], where: object) -> Self:
        """Read the document and check that it is the record of ``identity``.

        Args:
            document: The unsealed document.
            identity: Expected ``feature``, ``recipe_hash``, ``plan_hash``, ``generation`` and ``shard``.
            where: Path of the document, for messages.

        Raises:
            CorruptStoreError: It belongs elsewhere: files were swapped, or the array has another recipe.
        """
        _open(document, kind="commit", where=where)
        _check_identity(document, identity, where=where)
        data = document.get("data")
        scale = document.get("int8_scale")
        return cls(
            rows=TableRef.from_json(document.get("rows"), where=where),
            data=None if data is None else DataRef.from_json(_member(document, "data", dict, where=where), where=where),
            int8_scale=None if scale is None else _from_base64(scale, "<f4", where=where).astype(np.float32),
            num_ok=_count(document, "num_ok", where=where),
            failed=tuple(_outcome(entry, where=where) for entry in _member(document, "failed", list, where=where)),
            provenance=_member(document, "provenance", dict, where=where),
            checksum=document.get("checksum", ""),
            **{name: document[name] for name in ("feature", "recipe_hash", "plan_hash", "generation", "shard")},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteDoc:
    """``gNNN/commits/<feature>/complete.json``: every shard of a feature is committed, by these records.

    With this note a missing commit record is damage; without it, the shard is still to be extracted.

    Attributes:
        feature: Name of the array.
        recipe_hash: Hash of the feature recipe.
        plan_hash: Hash of the generation's plan.
        generation: Generation number.
        num_records: Number of commit records, one per shard.
        records_sha256: Hex SHA-256 of the records' checksums, in shard order, each followed by a newline.
    """

    feature: str
    recipe_hash: str
    plan_hash: str
    generation: int
    num_records: int
    records_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return _document("complete", asdict(self), version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, identity: Mapping[str, Any], where: object) -> Self:
        """Read the document and check that it belongs to ``identity``; see :meth:`CommitDoc.from_json`."""
        _open(document, kind="complete", where=where)
        _check_identity(document, identity, where=where)
        return cls(
            num_records=_count(document, "num_records", where=where),
            records_sha256=_member(document, "records_sha256", str, where=where),
            **{name: document[name] for name in identity},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDoc:
    """``plans/NNN.json``: says that a generation was planned with this plan. It is published after the plan."""

    generation: int
    plan_hash: str

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return _document("planned", asdict(self), version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, generation: int, where: object) -> Self:
        """Read the document and check that it belongs to this generation."""
        _open(document, kind="planned", where=where)
        _check_identity(document, {"generation": generation}, where=where)
        return cls(generation=generation, plan_hash=_member(document, "plan_hash", str, where=where))


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayDoc:
    """``overlays/NNN.json``: changes to some videos of the generations before it.

    Attributes:
        number: Number of the overlay, from 0 without gaps.
        generations: Number of generations that existed, to which it applies.
        num_videos: Number of rows of its table.
        previous: Checksum of the overlay before it; empty for the first.
        videos: The table of the videos.
    """

    number: int
    generations: int
    num_videos: int
    previous: str
    videos: TableRef

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        members = {name: getattr(self, name) for name in ("number", "generations", "num_videos", "previous")}
        return _document("overlay", {**members, "videos": self.videos.to_json()}, version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, number: int, where: object) -> Self:
        """Read the document and check that it has this number."""
        _open(document, kind="overlay", where=where)
        _check_identity(document, {"number": number}, where=where)
        return cls(
            number=number,
            generations=_count(document, "generations", where=where),
            num_videos=_count(document, "num_videos", where=where),
            previous=_member(document, "previous", str, where=where),
            videos=TableRef.from_json(document.get("videos"), where=where),
        )


def _check_identity(document: Mapping[str, Any], identity: Mapping[str, Any], *, where: object) -> None:
    for name, expected in identity.items():
        found = document.get(name)
        if type(found) is not type(expected) or found != expected:  # True equals 1, -0.0 equals 0
            raise CorruptStoreError(
                f"{where} has {name} {found!r:.200} where {expected!r} belongs; "
                "files were swapped or come from another store"
            )


def _outcome(entry: Any, *, where: object) -> VideoOutcome:
    if not isinstance(entry, dict) or entry.get("status") not in STATUSES or entry["status"] == "ok":
        raise CorruptStoreError(f"{where} lists a failed video without a known status; restore it from a copy")
    return VideoOutcome(
        id=_member(entry, "id", str, where=where),
        status=entry["status"],
        reason=_member(entry, "reason", str, where=where),
        first_row=_count(entry, "first_row", where=where),
        num_rows=_count(entry, "num_rows", where=where),
    )


def _to_base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _from_base64(text: Any, dtype: str, *, where: object) -> npt.NDArray[Any]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except (TypeError, ValueError) as error:
        raise CorruptStoreError(f"{where} has an array that cannot be read; restore it from a copy") from error
