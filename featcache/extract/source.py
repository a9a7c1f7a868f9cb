"""The videos of an extraction: a manifest that ``scan`` wrote, or a source to be scanned now."""

from collections.abc import Callable
from pathlib import Path

from featcache.data.manifest import Manifest, is_manifest, read_parquet
from featcache.data.scan import scan
from featcache.errors import ManifestError
from featcache.extract.settings import ExtractSettings

OnScan = Callable[[int, int], None]


def read_source(settings: ExtractSettings, *, on_scan: OnScan) -> Manifest:
    """List the source: a manifest that ``scan`` wrote is read as it is, anything else is scanned.

    Raises:
        ManifestError: There are no videos, or the folder of a manifest is gone.
    """
    source = Path(settings.source)
    if source.suffix == ".parquet" and is_manifest(source):
        manifest = read_parquet(source)
        if not Path(manifest.root).is_dir() and any(not Path(video.path).is_absolute() for video in manifest.videos):
            raise ManifestError(
                f"{settings.source!r} lists videos of {manifest.root!r}, which is not there; "
                "mount or restore that folder, or scan the videos where they are now"
            )
    else:
        manifest = scan(
            source,
            decoder=settings.sampling.decoder,
            deadline_seconds=settings.runtime.deadline_seconds,
            progress=on_scan,
        )
    if not manifest.videos:
        raise ManifestError(f"{settings.source!r} holds no videos; give a folder of video files or a listing")
    return manifest
