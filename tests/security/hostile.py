"""Stores that somebody else has changed and sealed again, so that every hash is right."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featcache.files.sealed import seal as sealed_bytes
from featcache.files.sealed import sha256_bytes
from featcache.store import paths
from featcache.store.rows import table_bytes


def unsealed(path):
    """The members of a sealed document."""
    document = json.loads(path.read_bytes())
    document.pop("checksum")
    return document


def seal(path, document):
    """Write a document with its right checksum, which is returned."""
    path.write_bytes(sealed_bytes(document))
    return json.loads(path.read_bytes())["checksum"]


def tamper(path, **members):
    """Change members of a sealed document and seal it again; returns the document's new checksum."""
    return seal(path, unsealed(path) | members)


def reseal_plan(store, **members):
    """Change members of a store's first plan, and its records so that they are of that plan."""
    seal_plan(store, unsealed(store / "g000" / "plan.json") | members)


def seal_plan(store, document):
    """Put another document in the place of a store's first plan, and make its records be of that plan."""
    checksum = seal(store / "g000" / "plan.json", document)
    for sealed in [
        *records(store),
        *(store / "g000" / "commits").glob("*/complete.json"),
        store / "plans" / "000.json",
    ]:
        tamper(sealed, plan_hash=checksum)
    settle(store)


def records(store):
    """The commit records of a store's first generation."""
    return sorted((store / "g000" / "commits").glob("*/[0-9]*.json"))


def settle(store):
    """Make the notes of complete features name the records that are there."""
    for note in (store / "g000" / "commits").glob("*/complete.json"):
        checksums = [json.loads(path.read_bytes())["checksum"] for path in records(store) if path.parent == note.parent]
        digest = sha256_bytes("".join(f"{checksum}\n" for checksum in checksums).encode())
        tamper(note, num_records=len(checksums), records_sha256=digest)


def replace_bytes(store, kind, data):
    """Put other bytes in the place of a plan's table, under their right hash."""
    ref = {"sha256": sha256_bytes(data), "num_bytes": len(data)}
    (store / "g000" / f"{kind}-{ref['sha256'][:16]}.parquet").write_bytes(data)
    reseal_plan(store, **{kind: ref})


def read_plan_table(store, kind):
    plan = json.loads((store / "g000" / "plan.json").read_bytes())
    return pq.read_table(store / "g000" / f"{kind}-{plan[kind]['sha256'][:16]}.parquet", use_threads=False)


def replace_table(store, kind, table):
    replace_bytes(store, kind, table_bytes(table))


def rename_videos(store, names):
    """Give a store's videos other ids, by their old ones: in the table, and in the records of failed ones."""
    table = read_plan_table(store, "videos")
    ids = pa.array([names.get(name, name) for name in table.column("id").to_pylist()], pa.string())
    for record in records(store):
        failed = json.loads(record.read_bytes())["failed"]
        tamper(record, failed=[{**entry, "id": names.get(entry["id"], entry["id"])} for entry in failed])
    replace_table(store, "videos", table.set_column(table.column_names.index("id"), "id", ids))


def replace_overlay(store, data):
    """Put other bytes in the place of the first overlay's table, under their right hash."""
    ref = {"sha256": sha256_bytes(data), "num_bytes": len(data)}
    (store / paths.overlay_table(0, ref["sha256"])).write_bytes(data)
    tamper(store / paths.overlay(0), videos=ref)


def replace_rows(store, data):
    """Put other bytes in the place of the first record's row table, under their right hash."""
    ref = {"sha256": sha256_bytes(data), "num_bytes": len(data)}
    (store / "g000" / "rows" / f"00000-{ref['sha256'][:16]}.parquet").write_bytes(data)
    for record in (store / "g000" / "commits").glob("*/00000.json"):
        tamper(record, rows=ref)
    settle(store)


def bomb(num_rows, **columns):
    """Parquet bytes of one row, repeated so often that only a few bytes stand for them."""
    size = 1 << 22
    fields = {name: np.full(size, value) for name, value in columns.items()}
    piece = pa.table({name: pa.array(column) for name, column in fields.items()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, piece.schema, compression="zstd") as writer:
        for _ in range(-(-num_rows // size)):
            writer.write_table(piece, row_group_size=size)
    return sink.getvalue().to_pybytes()
