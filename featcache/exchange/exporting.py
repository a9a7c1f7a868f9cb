"""``export``: writes one feature of a store, or a part of it, to a new folder that appears when it is complete."""

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
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.summary import Summary

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
    """Result of an export.

    Attributes:
        out: The folder.
        format: Format of the export.
        feature: Name of the array.
        num_videos: Number of videos written, including failed ones.
        num_failed: Number of videos without rows; ``videos.csv`` lists them with their status.
        num_rows: Number of rows written.
        dtype: Dtype of the written values.
        details: Further facts that depend on the format.
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

    def summary(self) -> Summary:
        """What to show of it."""
        failed = f", {self.num_failed} of them failed (see videos.csv)" if self.num_failed else ""
        return Summary(
            facts={
                "written": f"{self.out} ({self.format})",
                "feature": f"{self.feature} ({self.dtype})",
                "videos": f"{self.num_videos}{failed}",
                "rows": self.num_rows,
                **self.details,
            }
        )


def export(settings: ExportSettings, *, on_stage: OnStage = ignore) -> Exported:
    """Write the feature that ``settings`` name.

    Every export holds ``videos.csv`` (all selected videos, failed ones with their status), ``recipe.yaml`` and
    ``export.yaml`` (these settings) besides the files of its format.

    Args:
        settings: Settings of the export.
        on_stage: Called with (``"export"``, done, total), in the format's own unit.

    Raises:
        StoreError: The folder is not empty, or the store is not complete.
        ExchangeError: The store does not fit the format; the message says why.
        DiskSpaceError: The disk is full; nothing is left under the name.
    """
    out = choose(open_store(settings.store), settings)
    module, _, function = _WRITERS[settings.format].partition(":")
    write: Write = getattr(import_module(f"featcache.exchange.{module}"), function)
    with out.features, new_folder(Path(settings.out)) as folder:
        details = write(out, folder, settings, lambda done, total: on_stage("export", done, total))
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
