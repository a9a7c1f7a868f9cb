"""Format ``hf``: a Hugging Face dataset as ``save_to_disk`` writes it, with one row per row of the feature."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from featcache.exchange.columns import nested
from featcache.exchange.optional import optional
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.parquet import tables
from featcache.exchange.settings import ExportSettings


def write(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write the columns of format ``parquet``; maps are fixed-size lists in fixed-size lists.

    ``datasets.load_from_disk(folder)`` opens it.
    """
    datasets = optional("datasets", extra="exchange")
    scratch = folder / ".scratch"
    scratch.mkdir()
    arrow = scratch / "rows.arrow"
    done = 0
    writer: pa.RecordBatchStreamWriter | None = None
    with pa.OSFile(str(arrow), "wb") as sink:
        for table in tables(out, nested):
            if writer is None:
                writer = pa.ipc.new_stream(sink, table.schema)
            writer.write_table(table)
            done += len(table)
            step(done, out.total_rows)
        if writer is not None:
            writer.close()
    if writer is not None:
        datasets.disable_progress_bars()
        saved = datasets.Dataset.from_file(str(arrow))
        saved.save_to_disk(str(folder), max_shard_size=f"{settings.shard_megabytes}MB")
        del saved
    shutil.rmtree(scratch)
    return {"files": len(list(folder.glob("*.arrow")))}
