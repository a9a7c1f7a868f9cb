"""Lists the videos of a command: from a manifest that ``scan`` wrote, or from a source or data set to scan now."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from featcache.data.importers import list_dataset
from featcache.data.kept import scan_keeping
from featcache.data.manifest import Manifest, is_manifest, read_parquet
from featcache.data.notices import warn
from featcache.data.scan import scan_listed
from featcache.data.selection import Selection, select
from featcache.data.sources import list_source
from featcache.data.types import MAX_GIGAPIXELS
from featcache.errors import ManifestError
from featcache.files.urls import url_of

OnScan = Callable[[int, int], None]


def list_videos(
    *, source: str | None, dataset: str | None, root: str | None, selection: Selection, needs_paths: bool = True
) -> Manifest:
    """List a source or a data set and apply the selection to it, without opening a video.

    ``needs_paths`` is the argument of :func:`list_source`.

    Raises:
        ManifestError: The source or a list of the data set cannot be read.
        UnknownNameError: There is no such data set or column.
        ConfigError: The videos do not allow the selection.
    """
    if source is not None:
        return select(list_source(Path(source), needs_paths=needs_paths), selection)
    assert dataset is not None, "settings name either a source or a data set"
    assert root is not None, "settings name a data set with its root"
    listed = list_dataset(dataset, root=Path(root))
    if all(video.status == "missing" for video in listed.videos):
        raise ManifestError(
            f"none of the {len(listed)} videos that the lists of {dataset} name is below {root!r}, e.g. "
            f"{listed.videos[0].path!r}; give --root the folder that holds both"
        )
    return select(listed, selection)


def listed_videos(*, source: str | None, dataset: str | None, root: str | None, selection: Selection) -> Manifest:
    """As :func:`list_videos`, but a manifest that ``scan`` wrote keeps what was found of its videos.

    Raises:
        ManifestError: As there, or the folder of a manifest does not exist any more.
    """
    if source is None or not is_scanned(source):
        return list_videos(source=source, dataset=dataset, root=root, selection=selection)
    manifest = read_parquet(Path(source))
    needs_root = any(not Path(video.path).is_absolute() and url_of(video.path) is None for video in manifest.videos)
    if url_of(manifest.root) is None and not Path(manifest.root).is_dir() and needs_root:
        raise ManifestError(
            f"{source!r} lists videos of {manifest.root!r}, which is not there; "
            "mount or restore that folder, or scan the videos where they are now"
        )
    return select(manifest, selection)


def is_scanned(source: str | None) -> bool:
    """Whether a source is a manifest that ``scan`` wrote."""
    return source is not None and Path(source).suffix == ".parquet" and is_manifest(Path(source))


def read_videos(
    *,
    source: str | None,
    dataset: str | None,
    root: str | None,
    selection: Selection,
    decoder: str,
    deadline_seconds: float,
    max_gigapixels: float = MAX_GIGAPIXELS,
    num_workers: int = 2,
    kept: Path | None = None,
    on_scan: OnScan,
) -> Manifest:
    """List the videos: a manifest that ``scan`` wrote is read as it is, anything else is scanned.

    What is worth a sentence about them is not logged; see :func:`featcache.data.notices.warn`.

    Args:
        source: A source, or
        dataset: a public data set, with
        root: its folder.
        selection: The videos to take of them.
        decoder: As for a scan, like the next three.
        deadline_seconds: As for a scan.
        max_gigapixels: As for a scan.
        num_workers: As for a scan.
        kept: File in which the scan is kept; see :func:`featcache.data.kept.scan_keeping`.
        on_scan: Called with files listed and files in all.

    Raises:
        ManifestError: There are no videos, or the folder of a manifest does not exist any more.
    """
    manifest = listed_videos(source=source, dataset=dataset, root=root, selection=selection)
    if not is_scanned(source):
        scan = scan_listed if kept is None else partial(scan_keeping, path=kept)
        manifest = scan(
            manifest,
            decoder=decoder,
            deadline_seconds=deadline_seconds,
            max_gigapixels=max_gigapixels,
            num_workers=num_workers,
            progress=on_scan,
        )
    if not manifest.videos:
        warn(manifest)  # of what was left out
        raise ManifestError(f"{source!r} holds no videos; give a folder of video files or a listing")
    return manifest
