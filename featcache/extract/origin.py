"""Finds the videos of a store: the folders that its extractions read, according to their settings."""

import logging
from pathlib import Path

from featcache.config import mapping_in, parse
from featcache.data.manifest import is_manifest, read_parquet
from featcache.data.sources import is_folder_of_videos
from featcache.errors import ConfigError, ManifestError
from featcache.extract.settings import ExtractSettings
from featcache.store.documents import kept_settings
from featcache.store.reader import Store

log = logging.getLogger(__name__)


def source_roots(store: Store) -> list[Path]:
    """Folders from which the extractions of a store read their videos, the most recent first."""
    roots: dict[Path, None] = {}
    for where, text in _latest_first(store):
        try:
            settings = parse(ExtractSettings, mapping_in(text, where=where))
            source = Path(settings.source or settings.root or "")
            if source.suffix == ".parquet" and is_manifest(source):
                source = Path(read_parquet(source).root)
        except (ConfigError, ManifestError) as error:  # written by another version, or by hand
            log.warning("no hint about the place of videos in %s: %s", where, error)
            continue
        roots[source if is_folder_of_videos(source) else source.parent] = None
    return list(roots)


def _latest_first(store: Store) -> list[tuple[str, str]]:
    """Settings that extractions kept; in a bucket, where names alone are at hand, in no order."""
    kept = kept_settings(store.path, "extract")
    if isinstance(store.path, Path):
        kept.sort(key=lambda one: Path(one[0]).stat().st_mtime_ns, reverse=True)
    return kept
