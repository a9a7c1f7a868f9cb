"""Conformance suite of pretext tasks, built in or from another package.

A package that offers tasks runs the whole suite on them with::

    from featcache.testing.pretext import PretextTests

    class TestMine(PretextTests):
        names = ("my-task",)

Each check takes the settings of a task and raises ``AssertionError`` with a sentence. The frames of the videos show
their number and which side is up, so that a task's own :meth:`~featcache.methods.pretext.task.PretextTask.label_of` can
read the answer off the pixels.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.config import apply_overrides, parse, read_yaml, to_assignments, to_yaml
from featcache.data.decoding.base import VideoReader
from featcache.data.scan import scan_file
from featcache.data.types import Timeline, VideoRecord
from featcache.errors import ConfigError
from featcache.loaders.videos import VideoFile
from featcache.loaders.views import ClipShape, View, cut_views
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.objective import DrawnViews
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import TASKS, Draw, Footage, PretextTask, Seen
from featcache.seeding import rng_for
from featcache.testing.videos import write_video

SHAPE = ClipShape(8, 32, "bilinear")
NETWORK = "r21d-tiny"
NUM_DRAWS = 2000
SIDE = 48
_MOST_UNEVEN = 4.5
_NEAR_GUESS = 0.5


def module_of(task: PretextTask) -> PretextModule:
    """The module of a task on a small network, with the initial weights of seed 0, in training mode."""
    given = {"source": "unused", "backbone": NETWORK, "num_frames": SHAPE.num_frames, "input_size": SHAPE.size}
    settings = parse(PretextSettings, {**given, "task": {"name": TASKS.names()[0]}})
    return build_module(settings.model_copy(update={"task": task}), seed=0).train()


def batch_of(
    task: PretextTask, *, size: int = 4, shape: ClipShape = SHAPE
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random pixels of the shapes that a task draws, and targets, as its loss takes them."""
    videos = [footage(task.min_frames(shape) + 9, number=number) for number in range(size)]
    drawn = [_drawn(task, video, "loss", shape=shape) for video in videos]
    rng = np.random.default_rng(0)
    clips = tuple(
        torch.from_numpy(rng.integers(256, size=(size, len(view.frames), 3, view.size, view.size), dtype=np.uint8))
        for view in drawn[0].views
    )
    names = drawn[0].targets
    return clips, {name: torch.from_numpy(np.stack([np.asarray(each.targets[name]) for each in drawn]))
                   for name in names}  # fmt: skip


def footage(num_frames: int, *, number: int = 0, height: int = SIDE, width: int = SIDE + 16) -> Footage:
    """A video with this number of frames."""
    return Footage(f"video{number}", num_frames, height, width, num_frames / 24)


def clock_frame(number: int, *, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A frame whose red increases downwards and green to the right; its blue is the frame's number."""
    down, right = np.mgrid[0:height, 0:width]
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = 255 * down // max(1, height - 1)
    frame[..., 1] = 255 * right // max(1, width - 1)
    frame[..., 2] = number
    return frame


def seen_in(clip: Tensor) -> Seen:
    """Read frame numbers and rotation off the pixels of a view of clock frames, uint8 [T, 3, S, S]."""
    frames = tuple(round(float(blue)) for blue in clip[:, 2].float().mean(dim=(1, 2)))
    red = clip[0, 0].float()
    half = red.shape[0] // 2
    down, right = float(red[half:].mean() - red[:half].mean()), float(red[:, half:].mean() - red[:, :half].mean())
    along = (down, right, -down, -right)
    return Seen(frames=frames, turns=int(np.argmax(along)))


def draws_are_pure(task: PretextTask) -> None:
    """The same video and generator give the same draw, and another generator gives another draw."""
    video = footage(task.min_frames(SHAPE) + 30)
    one, same = (_drawn(task, video, "a") for _ in range(2))
    assert one.views == same.views, f"{task.name}: two draws of one generator differ"
    assert _plain(one) == _plain(same), f"{task.name}: targets of two draws of one generator differ"
    others = [_drawn(task, video, f"other {number}") for number in range(20)]
    assert any(other.views != one.views for other in others), f"{task.name} draws the same clip always"


def the_shortest_video_is_enough(task: PretextTask) -> None:
    """A video of ``min_frames`` frames gives clips whose frames all exist."""
    least = task.min_frames(SHAPE)
    for number in range(50):
        drawn = _drawn(task, footage(least, number=number), "short")
        frames = [frame for view in drawn.views for frame in view.frames]
        assert min(frames) >= 0, f"{task.name} takes frame {min(frames)}"
        assert max(frames) < least, f"{task.name} takes frame {max(frames)} of a video of {least} frames"


def shapes_are_those_of_all_videos(task: PretextTask) -> None:
    """Views and targets of two videos have the same shapes, so that they can be stacked."""
    small, large = (_drawn(task, footage(task.min_frames(SHAPE) + more, number=more), "s") for more in (0, 57))
    for one, other in zip(small.views, large.views, strict=True):
        shapes = [(len(view.frames), view.size) for view in (one, other)]
        assert shapes[0] == shapes[1], f"{task.name}: views of {shapes}, which do not stack"
    assert small.targets.keys() == large.targets.keys(), f"{task.name}: videos have other targets"
    for name, target in small.targets.items():
        shapes = [np.shape(target), np.shape(large.targets[name])]
        assert shapes[0] == shapes[1], f"{task.name}: target {name!r} of shapes {shapes}"


def a_clip_has_one_look(task: PretextTask) -> None:
    """All frames of a view are cut, mirrored and coloured alike."""
    for number in range(20):
        for view in _drawn(task, footage(task.min_frames(SHAPE) + 9, number=number), "look").views:
            assert len(set(view.looks)) == 1, f"{task.name}: frames of one clip have looks {set(view.looks)}"


def targets_do_not_tell_the_length(task: PretextTask, *, num_draws: int = NUM_DRAWS) -> None:
    """All values of an integer target are equally frequent, in short and in long videos alike, by chi-square tests."""
    for name, counts in _counts(task, num_draws).items():
        num_labels = counts.shape[1]
        if num_labels > 1:
            uneven = max(_excess(each, np.full(num_labels, num_draws / num_labels)) for each in counts)
            apart = _excess(counts.ravel(), np.tile(counts.mean(axis=0), 2), degrees=num_labels - 1)
            worst = max(uneven, apart)
            assert worst < _MOST_UNEVEN, f"{task.name}: {name!r} is {counts.tolist()} times each"


def answers_can_be_read_off_the_pixels(task: PretextTask) -> None:
    """If the task's own ``label_of`` reads a label off clock frames, it equals the target.

    Colours, mirroring and tilts are left out, since the frames show their number by a colour.
    """
    for number in range(20):
        video = footage(task.min_frames(SHAPE) + 7 * number, number=number)
        drawn = _drawn(task, video, "oracle")
        views = [_plainly(view) for view in drawn.views]
        wanted = {frame for view in views for frame in view.frames}
        clips = cut_views([(i, clock_frame(i, height=video.height, width=video.width)) for i in sorted(wanted)], views)
        read = task.label_of(tuple(seen_in(clip) for clip in clips))
        for name, label in read.items():
            assert drawn.targets[name] == label, (
                f"{task.name}: {name!r} is {drawn.targets[name]}, the pixels say {label}"
            )


def all_clips_are_decoded_in_one_pass(task: PretextTask, *, source: type[DrawnViews] = DrawnViews) -> None:
    """An encoded video is read in one pass: the frames decoded are those of any clip, each of them once."""
    views = source(task, SHAPE, seed=0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, num_frames=task.min_frames(SHAPE) + 9, width=SIDE + 16, height=SIDE)
        *_, video = scan_file(VideoRecord(id=path.name, path=path.name), path)
        for epoch in range(3):
            file = _CountedFile(video=video, path=path, decoder="pyav")
            views.pixels(file, epoch)
            wanted = sorted({frame for view in views.draw(video, epoch=epoch).views for frame in view.frames})
            decoded = [frame for frames in file.passes for frame in frames]
            assert decoded == wanted, (
                f"{task.name}: {len(decoded)} frames are decoded where its clips have {len(wanted)}"
            )
            assert len(file.passes) == 1, f"{task.name}: the video is read {len(file.passes)} times"


def every_parameter_takes_part(task: PretextTask) -> None:
    """The loss is a finite scalar that gives the network and every trained head a gradient, and no key network one."""
    module = module_of(task)
    loss = task.loss(module, *batch_of(task))
    assert loss.total.ndim == 0, f"{task.name}: the loss has shape {tuple(loss.total.shape)}"
    assert bool(torch.isfinite(loss.total)), f"{task.name}: the loss is {float(loss.total)}"
    loss.total.backward()  # type: ignore[no-untyped-call]
    trained = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    without = [name for name, parameter in trained if parameter.grad is None]
    assert not without, f"{task.name}: no gradient reaches {without}"
    keys = [name for name, _ in trained if name.startswith("follower.")]
    assert not keys, f"{task.name}: the key network trains {keys}"
    assert all(not metric.requires_grad for metric in loss.metrics.values()), f"{task.name}: a metric has a graph"


def the_loss_begins_with_guessing(task: PretextTask) -> None:
    """A classification whose :attr:`chance` is known begins near the loss of a guess."""
    loss = task.loss(module_of(task), *batch_of(task))
    found = loss.metrics.get("class_loss", loss.total if loss.metrics.keys() == {"accuracy"} else None)
    if task.chance is not None and found is not None:
        begin, guess = float(found.detach()), -math.log(task.chance)
        assert abs(begin - guess) < _NEAR_GUESS, f"{task.name} begins at {begin}, a guess at {guess}"


def settings_are_configuration(task: PretextTask) -> None:
    """Settings survive YAML and ``--set``, and refuse unknown keys."""
    kind = type(task)
    assert parse(kind, read_yaml(to_yaml(task))) == task, f"{task.name} does not survive YAML"
    assert parse(kind, apply_overrides({}, to_assignments(task))) == task, f"{task.name} does not survive --set"
    try:
        parse(kind, {"name": task.name, "no_such_key": 1})
    except ConfigError:
        return
    raise AssertionError(f"{task.name} accepts unknown keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class _CountedFile(VideoFile):
    """A file that notes the frames that each pass over it decodes."""

    passes: list[list[int]] = field(default_factory=list)

    def open(self) -> VideoReader:
        return _Counted(super(_CountedFile, self).open(), self.passes)


class _Counted:
    """A reader that notes the frames that each of its passes decodes."""

    def __init__(self, reader: VideoReader, passes: list[list[int]]) -> None:
        self._reader, self._passes = reader, passes

    @property
    def timeline(self) -> Timeline:
        return self._reader.timeline

    @property
    def codec(self) -> str:
        return self._reader.codec

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        self._passes.append([])
        for index, picture in self._reader.read(indices):
            self._passes[-1].append(index)
            yield index, picture

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, traceback)


def _drawn(task: PretextTask, video: Footage, key: str, *, shape: ClipShape = SHAPE) -> Draw:
    return task.draw(video, shape, rng_for(0, "suite", video.id, key))


def _plain(drawn: Draw) -> Mapping[str, Any]:
    return {name: np.asarray(target).tolist() for name, target in drawn.targets.items()}


def _plainly(view: View) -> View:
    looks = tuple(look._replace(flip=False, color=(), tilt=0.0) for look in view.looks)
    return dataclasses.replace(view, looks=looks)


def _counts(task: PretextTask, num_draws: int) -> dict[str, npt.NDArray[np.int64]]:
    """Count of each label, int64 [short or long video, label], for each target that is a single integer."""
    counts: dict[str, list[npt.NDArray[np.int64]]] = {}
    for more in (0, 200):
        video = footage(task.min_frames(SHAPE) + more)
        drawn = [_drawn(task, video, f"{more} {number}").targets for number in range(num_draws)]
        for name, first in drawn[0].items():
            if isinstance(first, int):
                counts.setdefault(name, []).append(np.bincount([int(each[name]) for each in drawn]))
    width = {name: max(map(len, found)) for name, found in counts.items()}
    return {name: np.stack([np.pad(each, (0, width[name] - len(each))) for each in found])
            for name, found in counts.items()}  # fmt: skip


def _excess(found: npt.NDArray[Any], expected: npt.NDArray[Any], *, degrees: int | None = None) -> float:
    """The chi-square statistic of counts, in standard deviations (Wilson and Hilferty's cube root)."""
    degrees = len(found) - 1 if degrees is None else degrees
    statistic = float(((found - expected) ** 2 / np.maximum(expected, 1e-9)).sum())
    spread = 2 / (9 * degrees)
    return (math.cbrt(statistic / degrees) - (1 - spread)) / math.sqrt(spread)


CHECKS: tuple[Callable[[PretextTask], None], ...] = (
    draws_are_pure,
    the_shortest_video_is_enough,
    shapes_are_those_of_all_videos,
    a_clip_has_one_look,
    targets_do_not_tell_the_length,
    answers_can_be_read_off_the_pixels,
    all_clips_are_decoded_in_one_pass,
    every_parameter_takes_part,
    the_loss_begins_with_guessing,
    settings_are_configuration,
)
"""All checks of the suite."""


class PretextTests:
    """Pytest class that tests pretext tasks; inherit from it and set ``names``.

    Attributes:
        names: Names of the tasks, which are tested with their default settings.
    """

    names: Sequence[str] = ()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each task and check."""
        metafunc.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
        metafunc.parametrize("name", self.names)

    def test_conforms(self, name: str, check: Callable[[PretextTask], None]) -> None:
        """The task passes the check."""
        check(parse(TASKS.load(name), {}))
