"""The sealed documents of a store as dataclasses; docs/store-format.md is their normative description."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt

from featcache.data.types import VideoOutcome
from featcache.errors import CorruptStoreError, StoreError
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe, recipe_hash, to_dict
from featcache.store.members import (
    check_identity,
    from_base64,
    new_document,
    open_document,
    read_count,
    read_member,
    read_outcome,
    read_record_spec,
    read_value,
    to_base64,
)
from featcache.store.paths import FileFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class RootDoc:
    """``featcache.json``: the description of the store. Its publication creates the store."""

    sampling: SamplingRecipe
    file_format: FileFormat

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return new_document(
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
        open_document(document, kind="store", where=where)
        if document.get("file_format") not in get_args(FileFormat):
            raise StoreError(f"{where} has file format {document.get('file_format')!r}; this build reads zarr and hdf5")
        return cls(
            sampling=read_value(SamplingRecipe, document, "sampling", where=where),
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
        return new_document(
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
        open_document(document, kind="feature", where=where)
        if document.get("name") != name:
            raise CorruptStoreError(f"{where} describes feature {document.get('name')!r}; files were swapped")
        return cls(
            name=name,
            recipe=read_value(FeatureRecipe, document, "recipe", where=where),
            record=read_record_spec(document, where=where),
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
        sha256 = read_member(document, "sha256", str, where=where)
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise CorruptStoreError(f"{where} has {sha256!r} for a SHA-256; restore it from a copy")
        return cls(sha256=sha256, num_bytes=read_count(document, "num_bytes", where=where))

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return {"sha256": self.sha256, "num_bytes": self.num_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDoc:
    """``gNNN/plan.json``: an immutable plan. Its checksum is the plan hash.

    ``block_bytes`` is the largest size of a block of several rows, the same for all writers of the generation, since
    the metadata of an array gives one size of blocks.
    """

    generation: int
    sampling_hash: str
    shard_rows: int
    num_shards: int
    num_videos: int
    encode_batch: int
    threads: int
    block_bytes: int
    videos: TableRef
    segments: TableRef

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        counts = {name: getattr(self, name) for name in _PLAN_COUNTS}
        tables = {"videos": self.videos.to_json(), "segments": self.segments.to_json()}
        return new_document("plan", {**counts, **tables, "sampling_hash": self.sampling_hash}, version=3)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, generation: int, sampling_hash: str, where: object) -> Self:
        """Read the document and check that it belongs to this generation of this store."""
        open_document(document, kind="plan", where=where)
        if (
            read_count(document, "generation", where=where) != generation
            or document.get("sampling_hash") != sampling_hash
        ):
            raise CorruptStoreError(f"{where} is the plan of another generation or store; files were swapped")
        if document["version"] < 3:
            document = {**document, "block_bytes": _FORMER_BLOCK_BYTES}
        plan = cls(
            sampling_hash=sampling_hash,
            videos=TableRef.from_json(document.get("videos"), where=where),
            segments=TableRef.from_json(document.get("segments"), where=where),
            **{name: read_count(document, name, where=where) for name in _PLAN_COUNTS},
        )
        if plan.shard_rows < 1:
            raise CorruptStoreError(f"{where} has shards of {plan.shard_rows} rows; restore it from a copy")
        return plan


_PLAN_COUNTS = ("generation", "shard_rows", "num_shards", "num_videos", "encode_batch", "threads", "block_bytes")
_FORMER_BLOCK_BYTES = 512 << 10  # before version 3


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
            "block_crc32c": to_base64(self.block_crc32c.astype("<u4")),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: object) -> Self:
        """Read it."""
        return cls(
            block_crc32c=from_base64(document.get("block_crc32c"), "<u4", where=where).astype(np.uint32),
            **{name: read_count(document, name, where=where) for name in _DATA_COUNTS},
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
        return new_document(
            "commit",
            {
                "feature": self.feature,
                "recipe_hash": self.recipe_hash,
                "plan_hash": self.plan_hash,
                "generation": self.generation,
                "shard": self.shard,
                "rows": self.rows.to_json(),
                "data": self.data.to_json() if self.data else None,
                "int8_scale": None if self.int8_scale is None else to_base64(self.int8_scale.astype("<f4")),
                "num_ok": self.num_ok,
                "failed": [
                    {
                        "id": outcome.id,
                        "status": outcome.status,
                        "reason": outcome.reason,
                        "first_row": outcome.first_row,
                        "num_rows": outcome.num_rows,
                        **({"tries": outcome.tries} if outcome.tries != 1 else {}),
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
        open_document(document, kind="commit", where=where)
        check_identity(document, identity, where=where)
        data = document.get("data")
        scale = document.get("int8_scale")
        return cls(
            rows=TableRef.from_json(document.get("rows"), where=where),
            data=None
            if data is None
            else DataRef.from_json(read_member(document, "data", dict, where=where), where=where),
            int8_scale=None if scale is None else from_base64(scale, "<f4", where=where).astype(np.float32),
            num_ok=read_count(document, "num_ok", where=where),
            failed=tuple(
                read_outcome(entry, where=where) for entry in read_member(document, "failed", list, where=where)
            ),
            provenance=read_member(document, "provenance", dict, where=where),
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
        return new_document("complete", asdict(self), version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, identity: Mapping[str, Any], where: object) -> Self:
        """Read the document and check that it belongs to ``identity``; see :meth:`CommitDoc.from_json`."""
        open_document(document, kind="complete", where=where)
        check_identity(document, identity, where=where)
        return cls(
            num_records=read_count(document, "num_records", where=where),
            records_sha256=read_member(document, "records_sha256", str, where=where),
            **{name: document[name] for name in identity},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDoc:
    """``plans/NNN.json``: says that a generation was planned with this plan. It is published after the plan."""

    generation: int
    plan_hash: str

    def to_json(self) -> dict[str, Any]:
        """Members of the document."""
        return new_document("planned", asdict(self), version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, generation: int, where: object) -> Self:
        """Read the document and check that it belongs to this generation."""
        open_document(document, kind="planned", where=where)
        check_identity(document, {"generation": generation}, where=where)
        return cls(generation=generation, plan_hash=read_member(document, "plan_hash", str, where=where))


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
        return new_document("overlay", {**members, "videos": self.videos.to_json()}, version=2)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, number: int, where: object) -> Self:
        """Read the document and check that it has this number."""
        open_document(document, kind="overlay", where=where)
        check_identity(document, {"number": number}, where=where)
        return cls(
            number=number,
            generations=read_count(document, "generations", where=where),
            num_videos=read_count(document, "num_videos", where=where),
            previous=read_member(document, "previous", str, where=where),
            videos=TableRef.from_json(document.get("videos"), where=where),
        )
