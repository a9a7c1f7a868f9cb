"""Format ``parquet``: one file with one row per row of the feature and the recipe in the schema's metadata."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featcache.data.manifest import label_column
from featcache.exchange.columns import FEATURE, Column, label_names, row_columns_of, tensor
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.sample import Array
from featcache.exchange.settings import ExportSettings
from featcache.recipes import to_dict

METADATA = b"featcache"
_CHUNK_BYTES = 32 << 20


def tables(out: Outgoing, feature_column: Callable[[Array], Column]) -> Iterator[pa.Table]:
    """The export as tables with at most 32 MB of features (or one row), all with the same schema."""
    names = [label_column(name) for name in label_names(out.videos)]
    for chunk in out.chunks(_CHUNK_BYTES):
        columns = row_columns_of(chunk.videos, chunk.counts, chunk.table)
        absent = pa.nulls(len(chunk.values), pa.string())
        known = {name: columns.pop(name, absent) for name in ("id", "split", *names)}
        yield pa.table({**known, **columns, FEATURE: feature_column(chunk.values)})


def write(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write ``features.parquet``: id, labels, split, clip, times, box, flip, frames, feature; 32 MB per row group.

    Vectors are fixed-size lists, maps are Arrow's fixed-shape tensors. Unknown values are null.
    """
    about = json.dumps({**out.recipe, "record": to_dict(out.record)}).encode()
    writer: pq.ParquetWriter | None = None
    done = 0
    try:
        for plain in tables(out, lambda values: tensor(values, out.record)):
            table = plain.replace_schema_metadata({METADATA: about})
            if writer is None:
                writer = pq.ParquetWriter(folder / "features.parquet", table.schema, compression="zstd")
            writer.write_table(table)
            done += len(table)
            step(done, out.total_rows)
    finally:
        if writer is not None:
            writer.close()
    return {"files": "features.parquet" if writer is not None else "no row, no file"}
