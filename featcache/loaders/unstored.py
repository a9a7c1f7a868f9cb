"""The videos that a method reads: those of a store, or those of an extraction that is never carried out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.backbones.registry import JOIN
from featcache.config import parse, read_mapping
from featcache.data.labels import label_columns, labels_in
from featcache.data.listing import is_scanned
from featcache.data.manifest import Manifest
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError
from featcache.extract.checking import check
from featcache.extract.lacking import judge
from featcache.extract.prepare import Prepared, prepare
from featcache.extract.scanning import read_source, scanning
from featcache.extract.settings import ExtractSettings
from featcache.loaders.choice import VideoList
from featcache.loaders.settings import BankSettings
from featcache.loaders.usable import listed_by_first
from featcache.machine import num_cores, resolve_device
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True)
class UnstoredVideos:
    """A :class:`featcache.loaders.choice.VideoList` of an extraction whose rows are computed when they are needed.

    Attributes:
        path: File with the settings of the extraction.
        prepared: The extraction with its backbones.
        root: Root of the videos' paths.
        videos: Video id to record.
    """

    path: Path
    prepared: Prepared
    root: str
    videos: Mapping[str, VideoRecord]

    @property
    def sampling(self) -> SamplingRecipe:
        """Recipe of the rows."""
        return self.prepared.sampling

    @property
    def features(self) -> dict[str, tuple[FeatureRecipe, RecordSpec]]:
        """Feature name to recipe and record."""
        return {feature.name: (feature.recipe, feature.record) for feature in self.prepared.features}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label columns, ``label`` first."""
        return label_columns(self.videos.values())

    def labels(self, column: str = "label") -> dict[str, str]:
        """Video id to label, for the videos that have one.

        Raises:
            UnknownNameError: There is no such label column.
        """
        return labels_in(self.videos, column)


def open_videos(
    settings: BankSettings,
    *,
    device: str = "auto",
    kept: Path | None = None,
    world: World = ALONE,
    on_stage: OnStage = ignore,
) -> VideoList:
    """The videos that a method reads: those of a store, or with ``online`` those of a file of ``featcache extract``.

    Of several processes the first one scans an extraction's videos; the others read what it has found.

    Args:
        settings: The bank.
        device: Device of the backbones of an extraction.
        kept: File in which the scan of an extraction's videos is kept; see
            :func:`featcache.data.kept.scan_keeping`.
        world: The processes that share the run, and its folder.
        on_stage: Called with the stage ``scan``, files listed and files in total.

    Raises:
        ConfigError: The file is not one of ``featcache extract``, there are rows only with ``online``, or a process
            does not find the run's folder.
        StoppedError: In the other processes, when the first raises an error.
        StoreError: There is no store.
    """
    path = Path(settings.store)
    if not path.is_file():
        return open_store(path)
    if not settings.online:
        raise ConfigError(
            f"{settings.store} is a file, and a store is a folder; give the store, or add --online to encode its "
            "videos while training"
        )
    data = read_mapping(path)
    if data.get("command") != "extract":
        raise ConfigError(
            f"{settings.store} is not of the command 'extract', which says what to encode; write such a file with "
            "`featcache extract … --print-config`"
        )
    if settings.videos is not None or settings.weights is not None:
        raise ConfigError(f"{settings.store} names videos and weights itself; leave out bank.videos and bank.weights")
    extraction = parse(ExtractSettings, data)
    check(extraction)
    assert kept is not None or world.size == 1, "processes share a run's folder"

    def prepared() -> Prepared:
        return prepare(_only(extraction, settings.feature), device=resolve_device(device))

    found: list[tuple[Prepared, Manifest]] = []

    def first() -> None:
        with scanning(
            extraction, num_workers=num_cores(), kept=kept, on_scan=lambda done, total: on_stage("scan", done, total)
        ) as scanned:
            built = prepared()
            found.append((built, scanned()))

    world.from_first(first)  # neither a backbone nor a manifest is sent
    if found:
        return _unstored(path, settings, *found[0])
    if is_scanned(extraction.source):
        return _unstored(path, settings, prepared(), read_source(extraction, on_scan=lambda done, total: None))
    assert kept is not None, "processes share a run's folder"
    return _unstored(path, settings, prepared(), listed_by_first(kept, world=world))


def _unstored(path: Path, settings: BankSettings, prepared: Prepared, manifest: Manifest) -> UnstoredVideos:
    videos = {video.id: video for video in judge(manifest.videos, prepared.sampling)}
    if settings.split_column is not None:  # nothing is stored, so views follow this column
        splits = labels_in(videos, settings.split_column)
        videos = {name: replace(video, split=splits.get(name, "")) for name, video in videos.items()}
    return UnstoredVideos(path=path, prepared=prepared, root=manifest.root, videos=videos)


def _only(extraction: ExtractSettings, feature: str | None) -> ExtractSettings:
    """The extraction without the features that are certainly not read, whose backbones need not be built."""
    wanted = None if feature is None else feature.split(JOIN)
    kept = tuple(each for each in extraction.features if wanted is None or each.name is None or each.name in wanted)
    return extraction.model_copy(update={"features": kept or extraction.features})
