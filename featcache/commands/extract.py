"""``extract`` and ``plan``: extraction from videos to a store, with one callback for all its stages."""

from typing import TYPE_CHECKING

from featcache.stages import OnStage, ignore
from featcache.units import readable_bytes

if TYPE_CHECKING:
    from featcache.extract.estimate import Estimate
    from featcache.extract.progress import Progress
    from featcache.extract.result import Extraction
    from featcache.extract.settings import ExtractSettings


def extract(settings: "ExtractSettings", *, on_stage: OnStage = ignore) -> "Extraction":
    """Compute the features of ``settings`` that the store lacks; see :func:`featcache.extract.run.extract`.

    Args:
        settings: Source, features and store.
        on_stage: Called with (``"scan"``, files listed, total), then with (``"extract"``, rows done, total).
    """
    from featcache.extract.run import extract as run

    def draw(progress: "Progress") -> None:
        done = progress.rows_done + progress.rows_failed
        on_stage("extract", done, progress.num_rows, rates(progress), sum(progress.failed.values()))

    return run(settings, on_scan=lambda done, total: on_stage("scan", done, total), on_progress=draw)


def plan(settings: "ExtractSettings", *, on_stage: OnStage = ignore) -> "Estimate":
    """Estimate time and disk of an extraction; see :func:`featcache.extract.estimate.estimate`.

    Args:
        settings: Settings of the extraction.
        on_stage: Called with (``"scan"``, files listed, total).
    """
    from featcache.extract.checking import check

    check(settings)  # before torch is imported

    from featcache.extract.estimate import estimate

    return estimate(settings, on_scan=lambda done, total: on_stage("scan", done, total))


def rates(progress: "Progress") -> str:
    """Rates of decoding and encoding, which show the bottleneck."""
    seconds = max(progress.elapsed_seconds, 1e-9)
    return (
        f"{progress.videos_done / seconds:.1f} videos/s {progress.frames_done / seconds:.0f} frames/s "
        f"wait {progress.decode_wait_seconds:.0f} s encode {progress.encode_seconds:.0f} s "
        f"{readable_bytes(progress.bytes_written)}"
    )
