"""``featcache audit leaks``: what tells the answer of a pretext task without motion."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.config import to_yaml
from featcache.data.motion import Frames
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.views import ClipShape, cut_views, frames_of
from featcache.methods.pretext.cost import cost_of
from featcache.methods.pretext.leaks.clips import Control, controls, video_frames
from featcache.methods.pretext.leaks.cues import (
    CUES,
    MEAN_FRAME,
    PIXELS,
    Drawn,
    Floats,
    Question,
    asked_of_clips,
    asked_of_targets,
    one_hot,
    stillness,
)
from featcache.methods.pretext.leaks.findings import LENGTH, PLACE, Finding, LeakResult
from featcache.methods.pretext.leaks.guessing import mean_class_accuracy
from featcache.methods.pretext.leaks.settings import LeakSettings
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import Draw, Footage
from featcache.metrics.intervals import mean_error
from featcache.seeding import rng_for
from featcache.stages import OnStage, ignore
from featcache.training.runs import run_folder

MORE_FRAMES = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)
"""Lengths of videos, beyond what the task needs at least."""
DRAWS_PER_LENGTH = 200
NUM_PLACES = 10
_NETWORK = "r21d-tiny"


def audit_leaks(settings: LeakSettings, *, on_stage: OnStage = ignore) -> LeakResult:
    """Find what tells the answer of a task without motion.

    The task draws clips from videos of photographs, the same ones for each kind of videos, which differ in what the
    camera and the codec do. A linear classifier is asked for the answer, given a few numbers of each clip that the
    network would read.

    Args:
        settings: The task and the videos.
        on_stage: Called with the name of each kind of videos and the number of videos that are done.

    Raises:
        ConfigError: The videos are too short for the task.
    """
    task = settings.task
    least = task.min_frames(_shape(settings))
    if settings.video_frames < least:
        raise ConfigError(
            f"the audit's videos have {settings.video_frames} frames, and the task {task.name!r} needs {least} of "
            f"{settings.num_frames}-frame clips; set video_frames={least} or more, at most 512"
        )
    videos = range(settings.num_videos)
    num_read = _num_read(settings)
    findings = [
        _answered(name, question, settings) for name, question in _asked_without_pixels(settings, least, num_read)
    ]
    draws = [
        [_draw(settings, number, draw, num_read=num_read) for draw in range(settings.num_draws)] for number in videos
    ]
    drawn = _drawn([(number, draw) for number in videos for draw in draws[number]], settings.video_frames)
    for control in controls(settings.gops):
        cues, still = _seen(control, draws, settings, on_stage)
        if task.reads == "map":
            found = mean_error(still[None], intervals=settings.intervals)
            findings.append(
                Finding(
                    control=control.name,
                    question=PIXELS,
                    cue=MEAN_FRAME,
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    chance=0.0,
                )
            )
        for cue, values in cues.items():
            questions = asked_of_clips(task, drawn, cue, values, seed=settings.seed)
            findings += [_answered(control.name, question, settings) for question in questions]
    folder = run_folder(settings, out=settings.out, store=task.name, name="leaks")
    result = LeakResult(folder=str(folder), task=task.name, num_draws=len(drawn.videos), findings=tuple(findings))
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def _shape(settings: LeakSettings) -> ClipShape:
    return ClipShape(settings.num_frames, settings.input_size)


def _num_read(settings: LeakSettings) -> int:
    """How many of the views a network or a key network reads; by convention they are the first."""
    given = PretextSettings(
        source="unused",
        task=settings.task,
        backbone=_NETWORK,
        num_frames=settings.num_frames,
        input_size=settings.input_size,
    )
    return cost_of(settings.task, build_module(given, seed=0), _draw(settings, 0, 0)).num_clips


def _draw(
    settings: LeakSettings, number: int, draw: int, *, num_frames: int | None = None, num_read: int | None = None
) -> Draw:
    """A draw from a video: its targets, and its first views."""
    num_frames = settings.video_frames if num_frames is None else num_frames
    footage = Footage(
        id=f"video {number}",
        num_frames=num_frames,
        height=settings.video_size,
        width=settings.video_size,
        duration_seconds=num_frames / settings.fps,
    )
    rng = rng_for(settings.seed, "leaks", footage.id, draw, num_frames)
    drawn = settings.task.draw(footage, _shape(settings), rng)
    return drawn._replace(views=drawn.views[:num_read])


def _drawn(draws: Sequence[tuple[int, Draw]], num_frames: int) -> Drawn:
    """Draws as arrays, each with the number of its video."""
    first = draws[0][1].targets
    names = [name for name, target in first.items() if isinstance(target, int | np.integer)]
    places = [np.mean([frame for view in draw.views for frame in view.frames]) / num_frames for _, draw in draws]
    return Drawn(
        videos=np.array([video for video, _ in draws]),
        targets={name: np.array([draw.targets[name] for _, draw in draws], np.int64) for name in names},
        places=np.array(places),
    )


def _asked_without_pixels(settings: LeakSettings, least: int, num_read: int) -> Iterator[tuple[str, Question]]:
    """Do the length of a video, or the place of the clips in it, tell a target?"""
    num = DRAWS_PER_LENGTH
    lengths = [
        (which, _draw(settings, 0, draw, num_frames=least + more, num_read=num_read))
        for which, more in enumerate(MORE_FRAMES)
        for draw in range(num)
    ]
    drawn = _drawn(lengths, least)
    for question in asked_of_targets(drawn, "number of frames", one_hot(drawn.videos)):
        yield LENGTH, question
    draws = [(0, _draw(settings, 0, draw, num_read=num_read)) for draw in range(num * len(MORE_FRAMES))]
    drawn = _drawn(draws, settings.video_frames)
    tenths = np.floor(drawn.places * NUM_PLACES).astype(np.int64)
    for question in asked_of_targets(drawn, "middle of the clips", one_hot(tenths)):
        yield PLACE, question


def _seen(
    control: Control, draws: Sequence[Sequence[Draw]], settings: LeakSettings, on_stage: OnStage
) -> tuple[dict[str, Floats], Floats]:
    """What is seen of the clips under a control.

    Returns:
        float64 [N, clips, D] by cue, and float64 [N], the stillness of the first clip.
    """
    cues: dict[str, list[list[Floats]]] = defaultdict(list)
    still: list[float] = []
    on_stage(control.name, 0, len(draws))
    with tempfile.TemporaryDirectory() as folder:
        for number, of_video in enumerate(draws):
            frames = video_frames(control, number, settings, folder=Path(folder))
            first = first_equal(frames)
            for draw in of_video:
                views = [replace(view, frames=tuple(first[frame] for frame in view.frames)) for view in draw.views]
                clips = cut_views(((int(frame), frames[frame]) for frame in frames_of(views)), views)
                for name, cue in CUES.items():
                    cues[name].append([cue(clip) for clip in clips])
                still.append(stillness(clips[0]) if settings.task.reads == "map" else 1.0)
            on_stage(control.name, number + 1, len(draws))
    return {name: np.array(values) for name, values in cues.items()}, np.array(still)


def first_equal(frames: Frames) -> list[int]:
    """For each frame the first one with the same pixels, which need not be cut again."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(frame.tobytes(), number) for number, frame in enumerate(frames)]


def _answered(control: str, question: Question, settings: LeakSettings) -> Finding:
    found = mean_class_accuracy(question, intervals=settings.intervals, seed=settings.seed)
    return Finding(
        control=control,
        question=question.name,
        cue=question.cue,
        value=found.value,
        low=found.low,
        high=found.high,
        chance=1 / question.num_answers,
    )
