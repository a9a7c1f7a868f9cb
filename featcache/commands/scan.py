"""``scan``: list videos into a manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featcache.config import to_yaml
from featcache.data.selection import VideosSettings
from featcache.errors import ConfigError, NothingUsableError
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, failures_table

_OPENED_AT_ONCE, _DECODED_AT_ONCE = 20_000, 1_000
"""Number of videos, which take a minute or so, after which a scan is kept."""


class ScanSettings(VideosSettings):
    """Settings of ``featcache scan``."""

    command: Literal["scan"] = "scan"
    """The command this file repeats."""
    decode: bool = False
    """Decode every frame of each video, not its first alone: finds damage in the middle, and takes a whole decoding."""
    out: str = "videos.parquet"
    """The manifest to write; its name ends in ``.parquet``, by which ``extract`` recognises it."""

    def model_post_init(self, context: object) -> None:
        """Check the source of the videos and the name of the manifest."""
        super().model_post_init(context)
        if Path(self.out).suffix != ".parquet":
            raise ConfigError(f"out is {self.out!r}; give the manifest a name that ends in .parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """A manifest that was written.

    Attributes:
        facts: The path of the manifest and its totals, JSON-ready.
        unusable: (video, status, reason) of each video that cannot be used.
        problem: Why no video can be used; ``None`` if some can.
    """

    facts: dict[str, Any]
    unusable: tuple[tuple[str, str, str], ...]
    problem: NothingUsableError | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.facts

    def summary(self) -> Summary:
        """The summary to print."""
        tables = failures_table(self.unusable, "cannot be used")
        return Summary(tables=tables, facts=self.facts, problem=self.problem)


def scan(settings: ScanSettings, *, on_stage: OnStage = ignore) -> Scanned:
    """Open every video of a source once, and write the manifest and the settings beside it.

    All cores take part. What is scanned is kept beside the manifest until that is written, and a killed scan goes on.

    Args:
        settings: What to list, and where to write.
        on_stage: Called with (``"scan"``, videos done, videos in all).
    """
    from featcache.data.kept import scan_keeping
    from featcache.data.listing import list_videos
    from featcache.data.manifest import write_parquet
    from featcache.data.notices import warn
    from featcache.files.publish import put_replace, remove
    from featcache.machine import num_cores

    listed = list_videos(
        source=settings.source, dataset=settings.dataset, root=settings.root, selection=settings.selection
    )
    target = Path(settings.out)
    kept = target.with_suffix(".part.parquet")
    manifest = scan_keeping(
        listed,
        kept,
        decoder=settings.decoder,
        num_workers=num_cores(),
        deadline_seconds=settings.deadline_seconds,
        max_gigapixels=settings.max_gigapixels,
        decodes=settings.decode,
        at_once=_DECODED_AT_ONCE if settings.decode else _OPENED_AT_ONCE,
        progress=lambda done, total: on_stage("scan", done, total),
    )
    warn(manifest)
    write_parquet(manifest, target)
    remove(kept)
    put_replace(target.with_suffix(".yaml"), to_yaml(settings).encode())
    unusable = tuple((video.id, video.status, video.reason) for video in manifest.videos if video.status != "ok")
    problem = None
    if unusable and len(unusable) == len(manifest):
        name, status, reason = unusable[0]
        problem = NothingUsableError(
            f"none of the {len(manifest)} videos of {manifest.root} can be used, e.g. {name!r} ({status}: {reason}); "
            "fix them and scan again"
        )
    return Scanned(facts={"manifest": str(target), **manifest.summary()}, unusable=unusable, problem=problem)
