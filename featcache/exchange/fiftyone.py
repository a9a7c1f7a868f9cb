"""Format ``fiftyone``: ids, labels and vectors as plain files, and :func:`load`, which turns them into a dataset.

FiftyOne keeps datasets in its own database, and recommends a loop over samples for data in any other form. So the
export consists of ``samples.json`` and ``embeddings.npy``, and the loop is in :func:`load`.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import ExchangeError
from featcache.exchange.npy import UnreadableError, array_at, read_json
from featcache.exchange.optional import optional
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.settings import ExportSettings

SAMPLES = "samples.json"
EMBEDDINGS = "embeddings.npy"
_CHUNK_BYTES = 32 << 20


def write(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write ``embeddings.npy`` [rows, C] and ``samples.json``: one sample per video, with its place in the array.

    Failed videos are samples without rows; they have the tag ``failed`` and their status.
    """
    if len(out.record.shape) != 1:
        raise ExchangeError(
            f"a row of feature {out.features.name!r} is {list(out.record.shape)}; FiftyOne's embeddings are vectors, "
            "export a pooled feature (output mean or cls)"
        )
    samples, first = [], 0
    for video in out.videos:
        rows = out.rows_of(video.id)
        last = first + len(rows)
        times = [[t0, t1] for t0, t1 in zip(rows.t0.tolist(), rows.t1.tolist(), strict=True)]
        samples.append(
            {
                "id": video.id,
                "filepath": video.path,
                "labels": dict(video.labels),
                "tags": [tag for tag in (video.split, "" if video.status == "ok" else "failed") if tag],
                "status": video.status,
                "reason": video.reason,
                "rows": [first, last],
                "seconds": [[None if np.isnan(time) else time for time in pair] for pair in times],
            }
        )
        first = last
    document = {"feature": out.features.name, "samples": samples}
    (folder / SAMPLES).write_text(json.dumps(document, allow_nan=False), encoding="ascii")
    with (folder / EMBEDDINGS).open("xb") as file:
        dtype = np.dtype(out.record.dtype)
        header = {"descr": dtype.str, "fortran_order": False, "shape": (first, *out.record.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        for chunk in out.chunks(_CHUNK_BYTES):
            file.write(np.ascontiguousarray(chunk.values).tobytes())
            done += len(chunk.values)
            step(done, out.total_rows)
    return {"load": "featcache.exchange.fiftyone.load(folder, videos=…)"}


def load(folder: Path | str, *, videos: Path | str, name: str | None = None) -> Any:
    """Make a FiftyOne dataset from an export: one sample per video, with labels, tags and an embedding.

    A sample's ``embedding`` is the mean of its rows, float32 [C]; its ``rows`` give their place in ``embeddings.npy``.
    A label is a ``Classification`` in the field ``label``, or ``label_<name>`` for any other name.

    Args:
        folder: Folder that ``export --format fiftyone`` wrote.
        videos: Folder to which the videos' paths are relative.
        name: Name of the dataset; ``None``: FiftyOne chooses one.

    Returns:
        The ``fiftyone.Dataset``.

    Raises:
        FeatcacheError: fiftyone is not installed.
        ExchangeError: The folder is not such an export.
    """
    samples, embeddings = read(folder)
    fo = optional("fiftyone", extra="fiftyone")
    dataset = fo.Dataset(name)
    dataset.add_samples([_sample(fo, sample, embeddings, Path(videos)) for sample in samples])
    return dataset


def read(folder: Path | str) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """Read the samples and the embeddings [rows, C] of an export.

    Raises:
        ExchangeError: The folder is not such an export, or its parts do not fit together.
    """
    root = Path(folder)
    try:
        document = read_json((root / SAMPLES).read_bytes(), str(root / SAMPLES))
        path = root / EMBEDDINGS
        shape, _, reader = array_at(path, offset=0, num_bytes=path.stat().st_size)
    except (OSError, UnreadableError) as error:
        raise ExchangeError(f"{root} is not an export in format fiftyone ({error}); export it again") from error
    try:
        samples = list(document.get("samples", []))
        starts, ends = ([sample["rows"][place] for sample in samples] for place in (0, 1))
        fits = [*starts, shape[0]] == [0, *ends] and all(type(end) is int for end in ends)
    except (LookupError, TypeError):
        fits = False
    if not fits:
        raise ExchangeError(f"{root}: samples and embeddings do not fit each other; export them again")
    return samples, reader(0, shape[0])


def label_field(name: str) -> str:
    """The field of a label: FiftyOne's names consist of letters, digits and underscores, and some are reserved."""
    return "label" if name == "label" else "label_" + re.sub(r"[^A-Za-z0-9_]", "_", name)


def _sample(fo: Any, sample: dict[str, Any], embeddings: np.ndarray[Any, Any], videos: Path) -> Any:
    first, last = sample["rows"]
    fields = {label_field(name): fo.Classification(label=text) for name, text in sample["labels"].items()}
    if last > first:
        fields["embedding"] = embeddings[first:last].astype(np.float32).mean(axis=0)
    return fo.Sample(
        filepath=str(videos / sample["filepath"]),
        tags=sample["tags"],
        video_id=sample["id"],
        status=sample["status"],
        rows=sample["rows"],
        **fields,
    )
