"""``export``: one feature of a store, whole or in part, into a new folder that appears when it is complete."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from featcache.config import to_yaml
from featcache.exchange import listing
from featcache.exchange.outgoing import Outgoing, Step, choose
from featcache.exchange.settings import ExportSettings
from featcache.files.publish import new_folder
from featcache.store.reader import open_store

Write = Callable[[Outgoing, Path, ExportSettings, Step], dict[str, Any]]

_WRITERS = {
    "npy": "npy:write",
    "webdataset": "tar:write",
    "parquet": "parquet:write",
    "hf": "hf:write",
    "fiftyone": "fiftyone:write",
    "actionformer": "localization:write_actionformer",
    "opentad": "localization:write_opentad",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        out: The folder.
        format: Its format.
        feature: Name of the array.
        num_videos: Videos written, failed ones included.
        num_failed: Videos without rows; they stand in ``videos.csv`` with their status.
        num_rows: Rows written.
        dtype: Of the values as written.
        details: What else the format has to say.
    """

    out: str
    format: str
    feature: str
    num_videos: int
    num_failed: int
    num_rows: int
    dtype: str
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def export(settings: ExportSettings, *, on_progress: Step = lambda done, total: None) -> Exported:
    """Write the feature that ``settings`` name.

    Every export holds ``videos.csv`` (all chosen videos, failed ones with their status), ``recipe.yaml`` and
    ``export.yaml`` (these settings) beside the files of its format.

    Args:
        settings: What to write, and where.
        on_progress: Called with (done, in all), in the format's own unit.

    Raises:
        StoreError: The folder is not empty, or the store is not complete.
        ExchangeError: The store does not fit the format; says why.
        DiskSpaceError: The disk is full; nothing is left under the name.
    """
    out = choose(open_store(settings.store), settings)
    module, _, function = _WRITERS[settings.format].partition(":")
    write: Write = getattr(import_module(f"featcache.exchange.{module}"), function)
    with out.features, new_folder(Path(settings.out)) as folder:
        details = write(out, folder, settings, on_progress)
        counts = {video.id: out.num_rows(video.id) for video in out.videos}
        (folder / listing.VIDEOS).write_bytes(listing.write_videos(out.videos, counts))
        (folder / listing.RECIPE).write_bytes(listing.write_recipe(out.recipe))
        (folder / "export.yaml").write_text(to_yaml(settings), encoding="utf-8")
    return Exported(
        out=settings.out,
        format=settings.format,
        feature=out.features.name,
        num_videos=len(out.videos),
        num_failed=sum(video.status != "ok" for video in out.videos),
        num_rows=out.total_rows,
        dtype=out.record.dtype,
        details=details,
    )
