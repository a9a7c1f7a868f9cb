"""``extract``: scans, plans what is missing, computes and commits it, and reports the outcome of every video."""

import time
from dataclasses import replace

from featcache.data.listing import OnScan
from featcache.extract.checking import check
from featcache.extract.progress import OnProgress, ignore
from featcache.extract.result import Extraction
from featcache.extract.scanning import scanning
from featcache.extract.settings import ExtractSettings
from featcache.imports import collecting_nothing


def extract(
    settings: ExtractSettings,
    *,
    on_scan: OnScan = lambda done, total: None,
    on_progress: OnProgress = ignore,
) -> Extraction:
    """Compute what the store still lacks according to ``settings``; the same call resumes, grows or extends a store.

    Args:
        settings: Settings of the extraction.
        on_scan: Called with (files listed, files in total), from a thread.
        on_progress: Called with the counters of the run.

    Raises:
        FeatcacheError: A user's mistake, in one sentence; committed shards are kept.
    """
    started = time.monotonic()
    check(settings)
    with scanning(settings, on_scan=on_scan) as scanned:
        with collecting_nothing():  # not above: torch is imported while the videos are scanned
            from featcache.extract.work import carry_out

        result = carry_out(settings, scanned=scanned, on_progress=on_progress)
    return replace(result, seconds=time.monotonic() - started)
