"""Reads the documents of a store: its sealed documents and the tables that they name by hash."""

from pathlib import Path
from typing import Any

from featcache.errors import CorruptStoreError, StoreError
from featcache.files.base import Files, open_files
from featcache.files.publish import is_temp
from featcache.files.sealed import sha256_bytes, unseal
from featcache.store import paths, zarr_format
from featcache.store.paths import FileFormat
from featcache.store.schema import FeatureDoc, RootDoc, TableRef


def read_document(files: Files, name: str, *, what: str) -> dict[str, Any]:
    """Read the members of a sealed document.

    Raises:
        CorruptStoreError: It is missing or damaged; the message calls it ``what``.
    """
    return unseal(files.read(name, what=what), where=files.where(name), what=what)


def read_table_bytes(files: Files, name: str, ref: TableRef, *, what: str) -> bytes:
    """Read a Parquet file and check its size and hash against the recorded ones.

    Raises:
        CorruptStoreError: It is missing or damaged; the message calls it ``what``.
    """
    data = files.read(name, what=what)
    if len(data) != ref.num_bytes or sha256_bytes(data) != ref.sha256:
        raise CorruptStoreError(
            f"{what} {files.where(name)} is damaged (its SHA-256 does not match); restore it from a copy"
        )
    return data


def is_store(place: Path | str) -> bool:
    """Whether there is a store at a place, damaged or not."""
    files = open_files(place)
    return files.exists(paths.ROOT)


def is_marked(place: Path | str, token: str) -> bool:
    """Whether a writer has marked the store at a place; see :meth:`featcache.store.writer.StoreWriter.marked`."""
    return open_files(place).exists(paths.mark(token))


def read_root(files: Files) -> RootDoc:
    """Read the description of a store.

    Raises:
        StoreError: There is no store, or one of a newer format.
        CorruptStoreError: ``featcache.json`` is damaged.
    """
    if not files.exists(paths.ROOT):
        if files.is_remote:
            files.names("")  # where there is no bucket, this says so
        raise StoreError(f"{files.where()} is not a featcache store (it has no {paths.ROOT}); check the path")
    document = read_document(files, paths.ROOT, what="store description")
    return RootDoc.from_json(document, where=files.where(paths.ROOT))


def read_features(files: Files) -> dict[str, FeatureDoc]:
    """All declared features by name."""
    return {name: read_feature(files, name) for name in feature_names(files)}


def feature_names(files: Files) -> list[str]:
    """Names of the declared features, sorted."""
    names = files.names(paths.FEATURES)
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read_feature(files: Files, name: str) -> FeatureDoc:
    """The declaration of one feature."""
    place = paths.feature(name)
    return FeatureDoc.from_json(read_document(files, place, what="feature recipe"), name=name, where=files.where(place))


def kept_settings(place: Path | str, command: str) -> list[tuple[str, str]]:
    """Settings that a command kept in a store when it wrote there: where each file is and its text, by name."""
    files = open_files(place)
    names = [f"{paths.CONFIG}/{name}" for name in files.names(paths.CONFIG)]
    kept = [name for name in names if name.startswith(f"{paths.CONFIG}/{command}-") and name.endswith(".yaml")]
    return [(files.where(name), files.read(name, what="settings").decode("utf-8", "replace")) for name in kept]


def refuse_foreign(files: Files, *, file_format: FileFormat) -> None:
    """Refuse a folder that is not empty for a new store (left-overs of a killed creation do not count)."""
    for name in files.names(""):
        is_ours = is_temp(name) or (file_format == "zarr" and _is_group(files, name)) or _is_disk(files, name)
        if not is_ours and not files.exists(paths.ROOT):  # another process may have created the store meanwhile
            raise StoreError(
                f"{files.where()} is not a featcache store and not empty (it holds {name!r}); choose an empty folder"
            )


def _is_disk(files: Files, name: str) -> bool:
    """Whether a folder holds nothing but the record of a disk, which is published before anything else."""
    return f"{name}/" == paths.DISK[: len(name) + 1] and all(
        is_temp(inside) or f"{name}/{inside}" == paths.DISK for inside in files.names(name)
    )


def _is_group(files: Files, name: str) -> bool:
    """Whether a file is the root group that is published immediately before the store's description."""
    expected = zarr_format.group_metadata()
    return name == paths.GROUP and files.size(name) == len(expected) and files.read(name, what="group") == expected
