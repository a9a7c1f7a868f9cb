"""Finds the videos of a store: the folders that its extractions read, according to their settings."""

import logging
from pathlib import Path

from featcache.config import parse, read_mapping
from featcache.data.manifest import is_manifest, read_parquet
from featcache.data.sources import is_folder_of_videos
from featcache.errors import ConfigError, ManifestError
from featcache.extract.settings import ExtractSettings
from featcache.store.reader import Store

log = logging.getLogger(__name__)


def source_roots(store: Store) -> list[Path]:
    """Folders from which the extractions of a store read their videos, the most recent first."""
    written = sorted(
        (store.path / "config").glob("extract-*.yaml"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    roots: dict[Path, None] = {}
    for path in written:
        try:
            settings = parse(ExtractSettings, read_mapping(path))
            source = Path(settings.source or settings.root or "")
            if source.suffix == ".parquet" and is_manifest(source):
                source = Path(read_parquet(source).root)
        except (ConfigError, ManifestError) as error:  # written by another version, or by hand
            log.warning("no hint about the place of videos in %s: %s", path, error)
            continue
        roots[source if is_folder_of_videos(source) else source.parent] = None
    return list(roots)
