"""``classify``: the most probable classes of video files, by a fine-tuned model or a backbone's own classifier."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from featcache.backbones.registry import check_name, classifier_of
from featcache.config import Settings, to_yaml
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, NothingUsableError, UnknownNameError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, SummaryTable, failures_table
from featcache.units import duration

if TYPE_CHECKING:
    import torch

    from featcache.data.manifest import Manifest
    from featcache.methods.finetune.classifying import ReadyClassifier

LISTINGS = (".csv", ".jsonl", ".parquet")


class ClassifySettings(Settings):
    """Settings of ``featcache classify``."""

    command: Literal["classify"] = "classify"
    """The command this file repeats."""
    files: tuple[str, ...] = Field(min_length=1)
    """Video files, folders of them, and listings."""
    model: str
    """The folder of a ``train finetune`` run, a ``classifier.safetensors``, or a backbone with a classifier of its own,
    e.g. ``i3d``."""
    seed: int | None = None
    """Which seed of the run; null: its only one."""
    weights: str = "default"
    """Weights of a backbone: ``default`` or the path of a file."""
    top: int = Field(default=5, ge=1)
    """Number of classes per video, the most probable first."""
    num_clips: int | None = Field(default=None, ge=1)
    """Clips of a video; null: as the run was tested, or 4 for a backbone's own classifier."""
    num_crops: int | None = Field(default=None, ge=1)
    """Crops of each clip, spread over the longer side; null: as the run was tested, or the centre."""
    workers: int | None = Field(default=None, ge=0)
    """Number of decoding processes; 0: this process; null: one per core."""
    deadline_seconds: float = Field(default=60.0, gt=0)
    """Seconds without progress after which a video is given up when it is opened."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    out: str | None = None
    """Folder in which to write ``result.json``; null: it is printed alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedVideo:
    """The most probable classes of a video.

    Attributes:
        file: The file.
        classes: Class names, the most probable first.
        probabilities: Their probabilities.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """What was found.

    Attributes:
        model: The classifier: a file, or the name of a backbone.
        num_classes: Number of its classes.
        num_views: Number of views of a video, over which it averages.
        videos: The videos that were scored, in the order in which they were given.
        failed: (file, status, reason) of each that cannot be read.
        seconds: Wall time.
    """

    model: str
    num_classes: int
    num_views: int
    videos: tuple[ClassifiedVideo, ...]
    failed: tuple[tuple[str, str, str], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """One line per video and class."""
        rows = tuple(
            (video.file if place == 0 else "", name, f"{100 * probability:.1f}")
            for video in self.videos
            for place, (name, probability) in enumerate(zip(video.classes, video.probabilities, strict=True))
        )
        title = f"{self.num_classes} classes, {self.num_views} views per video"
        table = SummaryTable(title=title, columns=("video", "class", "%"), rows=rows, num_text=2)
        num_all = len(self.videos) + len(self.failed)
        problem = None
        if not self.videos:
            file, status, reason = self.failed[0]
            problem = NothingUsableError(
                f"none of {num_all} videos can be classified, e.g. {file!r} ({status}: {reason}); `featcache scan` "
                "opens each and says why"
            )
        return Summary(
            tables=((table,) if self.videos else ()) + failures_table(self.failed, "cannot be read"),
            facts={
                "model": self.model,
                "classified": f"{len(self.videos)} of {num_all} videos",
                "took": duration(self.seconds),
            },
            problem=problem,
        )


def classify(settings: ClassifySettings, *, on_stage: OnStage = ignore) -> Classified:
    """Score video files; those that cannot be read are named.

    Scores are those of the run's own test, to the bit, for the same videos with the same views on the same machine.

    Args:
        settings: Files and model.
        on_stage: Called with the stages ``scan`` and ``classify``, videos done and videos in total.

    Raises:
        ConfigError: The model has no classifier, or several seeds and none is named.
        ManifestError: A folder or listing holds no video, or cannot be read.
        UnknownNameError: The model is neither a run nor a backbone.
        WeightsError: The classifier is damaged, or the weights of a backbone cannot be found.
    """
    started = time.monotonic()
    path = _model_file(settings.model, seed=settings.seed)  # before anything heavy: a wrong name is reported at once
    if path is not None and settings.weights != "default":
        raise ConfigError(f"--weights is for a backbone, and {settings.model} has its own; leave it out")
    names, listed = list_files(settings.files)

    import numpy as np
    import torch

    from featcache.data.scan import scan_listed
    from featcache.loaders.recipe_rows import RecipeSource
    from featcache.loaders.videos import find_files
    from featcache.machine import num_cores, resolve_device
    from featcache.methods.finetune.scoring import video_scores

    ready = _ready(settings, path, device=torch.device(resolve_device(settings.device)))
    workers = num_cores() if settings.workers is None else settings.workers
    scanned = scan_listed(
        listed,
        decoder=ready.views.decoder,
        num_workers=num_cores(),
        deadline_seconds=settings.deadline_seconds,
        progress=lambda done, total: on_stage("scan", done, total),
    )
    failed = {video.id: (video.status, video.reason) for video in scanned.videos if video.status != "ok"}
    usable = scanned.select(status="ok")
    scored: dict[str, ClassifiedVideo] = {}
    if usable.videos:
        files = find_files(usable.videos, [Path(usable.root)], decoder=ready.views.decoder, hint="give them again")
        numbers, scores = video_scores(
            ready.module,
            RecipeSource(ready.views, crop=ready.crop, seed=0),
            files,
            workers=min(workers, len(usable.videos)),
            clips_at_once=ready.clips_at_once,
            average=ready.average,
            precision=ready.precision,
            stage="classify",
            on_stage=on_stage,
        )
        probabilities = scores if ready.average == "softmax" else torch.from_numpy(scores).softmax(dim=1).numpy()
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : settings.top]
        for number, row, best in zip(numbers, probabilities, order, strict=True):
            video = files.videos[number].id
            scored[video] = ClassifiedVideo(
                file=names[video],
                classes=tuple(ready.classes[place] for place in best),
                probabilities=tuple(row[best].tolist()),
            )
        failed |= {files.videos[number].id: ("undecodable", reason) for number, reason in files.damaged.items()}
    result = Classified(
        model=settings.model if path is None else str(path),
        num_classes=len(ready.classes),
        num_views=ready.views.num_clips * ready.views.num_crops,
        videos=tuple(scored[video] for video in names if video in scored),
        failed=tuple((names[video], *failed[video]) for video in names if video in failed),
        seconds=time.monotonic() - started,
    )
    if settings.out is not None:
        put_replace(Path(settings.out) / "config.yaml", to_yaml(settings).encode())
        put_replace(Path(settings.out) / "result.json", canonical_json(result.to_dict()))
    return result


def _model_file(given: str, *, seed: int | None) -> Path | None:
    """The classifier of a run, or ``None`` for a backbone.

    Raises:
        ConfigError: The run has no classifier, or several and no seed is given, or a backbone is to have a seed.
        UnknownNameError: It is neither a run nor a backbone; names the closest backbone.
    """
    path = classifier_of(given, seed=seed)
    if path is not None:
        return path
    try:
        check_name(given)
    except UnknownNameError as error:
        raise UnknownNameError(f"there is no run {given!r}, and no such backbone either: {error}") from error
    if seed is not None:
        raise ConfigError(f"--seed is for a run, and {given} is a backbone; leave it out")
    return None


def list_files(given: tuple[str, ...]) -> tuple[dict[str, str], "Manifest"]:
    """All videos that files, folders and listings stand for, once each and in this order.

    A file that is not there is listed as missing.

    Returns:
        How each video is shown, by its id, and the list of them.

    Raises:
        ManifestError: A folder or listing holds no video, or cannot be read.
    """
    from featcache.data.manifest import Manifest, default_id
    from featcache.data.remote import is_there
    from featcache.data.sources import is_folder_of_videos, list_source
    from featcache.files.urls import absolute, place_of, shown

    videos: dict[str, VideoRecord] = {}
    names: dict[str, str] = {}

    def add(path: str, name: str, record: Mapping[str, Any]) -> None:
        own = default_id(path)
        if own not in videos:
            videos[own], names[own] = VideoRecord(id=own, path=path, **record), name

    for each in given:
        path = Path(each).expanduser()
        is_folder = is_folder_of_videos(path)
        if is_folder or (is_there(path) and path.suffix.lower() in LISTINGS):
            listed = list_source(path)
            for video in listed.videos:
                there = listed.path_of(video)
                add(shown(there), shown(place_of(path, video.path) if is_folder else there), {})
        elif is_there(path):
            add(absolute(path), each, {})
        else:
            add(absolute(path), each, {"status": "missing", "reason": "there is no such file"})
    return names, Manifest(root=str(Path.cwd()), videos=tuple(videos.values()))


def _ready(settings: ClassifySettings, path: Path | None, *, device: "torch.device") -> "ReadyClassifier":
    """The classifier, with the views that the settings ask for."""
    from featcache.methods.finetune.classifying import fine_tuned, of_backbone

    if path is None:
        ready = of_backbone(settings.model, settings.weights, device=device)
    else:
        ready = fine_tuned(path, device=device)
    views = replace(
        ready.views,
        num_clips=settings.num_clips or ready.views.num_clips,
        num_crops=settings.num_crops or ready.views.num_crops,
    )
    return replace(ready, views=views)
