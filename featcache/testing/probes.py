"""Conformance suite of probes: requirements for every probe, from featcache or another package.

A package that offers probes runs the whole suite on them with::

    from featcache.testing.probes import ProbeTests

    class TestMine(ProbeTests):
        names = ("my-probe",)

Each check takes a :class:`Subject` and raises ``AssertionError`` with a readable message.
"""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError

from featcache.errors import ConfigError, ManifestError
from featcache.evaluation.data import ProbeData, make_data
from featcache.evaluation.probe import PROBES, Task
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import (
    ClipTraining,
    MlpSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.loaders.clip_sets import ClipSets
from featcache.loaders.settings import ClipSetSettings
from featcache.methods.scale.run import pretrain_scale
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleSettings
from featcache.metrics.result import SplitResult, share_right
from featcache.networks.settings import SetPredictorSettings
from featcache.training.settings import TrainingSettings

NUM_CLASSES = 4
NUM_CHANNELS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A probe under test.

    Attributes:
        name: Registry name.
        settings: An instance of its settings that is quick on a few hundred rows.
    """

    name: str
    settings: Any


def separable_data(*, splits: bool = True, spread: float = 0.05, seed: int = 0) -> ProbeData:
    """Two to four rows per video around one corner per class: 24 training videos and 16 in each of two test splits."""
    rng = np.random.default_rng(seed)
    labels = np.arange(56) % NUM_CLASSES
    owner = np.repeat(np.arange(56), rng.integers(2, 5, size=56))
    corners = np.eye(NUM_CLASSES, NUM_CHANNELS)
    names = ["train"] * 24 + ["test_seen"] * 16 + ["test_unseen"] * 16
    return _placed_data(
        corners[labels][owner] + spread * rng.normal(size=(len(owner), NUM_CHANNELS)),
        row_video=owner,
        videos=[f"video{index}" for index in range(56)],
        labels=[f"class{label}" for label in labels],
        splits=names if splits else None,
    )


def _placed_data(
    features: npt.NDArray[np.floating],
    *,
    row_video: npt.NDArray[np.int64],
    videos: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str] | None,
) -> ProbeData:
    """Add positions in their videos to the rows, independent of labels and features."""
    rng = np.random.default_rng(7)
    corners = np.sort(rng.random((len(features), 2, 3)), axis=1).astype(np.float32)  # (y, x, t), low then high
    (y0, x0, t0), (y1, x1, t1) = corners[:, 0].T, corners[:, 1].T
    box = np.stack([y0, x0, y1, x1, t0, t1], axis=1)
    return make_data(
        features,
        row_video=row_video,
        videos=videos,
        labels=labels,
        splits=splits,
        positions={"box6": box, "code7": np.stack([np.zeros_like(y0), y0, x0, t0, y1, x1, t1], axis=1)},
    )


def small_settings(name: str) -> Any:
    """Settings of a probe for small data: its defaults, or shorter training if the defaults would take minutes."""
    training = ClipTraining(lrs=(1e-2,), batch_sizes=(256,), seeds=(0,), epochs=30)
    predictor = SetPredictorSettings(width=32, depth=1, position_hidden=16, dropout=0.0)
    small: dict[str, Callable[[], Any]] = {
        "mlp": lambda: MlpSettings(hidden=(32, 16), training=dataclasses.replace(training, lrs=(1e-4, 1e-2))),
        "transformer": lambda: TransformerSettings(predictor=predictor, training=training),
        "scale-linear": lambda: ScaleLinearSettings(
            model=tiny_model(), training=dataclasses.replace(training, lrs=(0.1,), batch_norms=(False, True))
        ),
        "scale-ft": lambda: ScaleFtSettings(model=tiny_model(), training=training),
    }
    return small[name]() if name in small else PROBES.load(name).settings()


@functools.cache
def _tiny_model() -> tempfile.TemporaryDirectory[str]:
    data = separable_data()
    sets = ClipSets(
        features=torch.from_numpy(data.features),
        positions=torch.from_numpy(data.positions["box6"]),
        video_start=np.searchsorted(data.row_video, np.arange(len(data.videos) + 1)).astype(np.int64),
        video_ids=data.videos,
        identity="separable",
    )
    folder = tempfile.TemporaryDirectory(prefix="featcache-model-")
    settings = ScaleSettings(
        sets=ClipSetSettings(store="separable"),
        clips_per_set=1,
        predictor=SetPredictorSettings(width=32, depth=1, position_hidden=16),
        heads=ScaleHeadSettings(width=16, target_hidden=32, hidden=32),
        training=TrainingSettings(epochs=2, batch_size=16, threads=1, tensorboard=False),
        out=folder.name,
    )
    pretrain_scale(settings, sets=sets)
    return folder


def tiny_model() -> str:
    """Folder of a set predictor for data of :data:`NUM_CHANNELS` channels; it is deleted when the process ends."""
    return _tiny_model().name


def random_data(*, splits: bool, seed: int = 0) -> ProbeData:
    """600 videos of two rows with labels independent of the features; 200 are for training if there are splits."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(600, NUM_CHANNELS))  # similar rows per video, so that a leak would pay
    return _placed_data(
        np.repeat(centres, 2, axis=0) + 0.01 * rng.normal(size=(1200, NUM_CHANNELS)),
        row_video=np.repeat(np.arange(600), 2),
        videos=[f"video{index}" for index in range(600)],
        labels=[f"class{label}" for label in rng.integers(NUM_CLASSES, size=600)],
        splits=["train"] * 200 + ["test"] * 400 if splits else None,
    )


def grouped_data(seed: int = 0) -> ProbeData:
    """60 groups of four nearly identical videos, without splits; labels are drawn at random per group."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(60), 4)
    data = _placed_data(
        rng.normal(size=(60, NUM_CHANNELS))[group] + 0.01 * rng.normal(size=(240, NUM_CHANNELS)),
        row_video=np.arange(240),
        videos=[f"video{index}" for index in range(240)],
        labels=[f"class{label}" for label in rng.integers(NUM_CLASSES, size=60)[group]],
        splits=None,
    )
    return dataclasses.replace(data, groups=group, group_column="group")


def relabel(data: ProbeData, labels: Sequence[str | None], *, failed: dict[str, int] | None = None) -> ProbeData:
    """The same videos with other labels."""
    return make_data(
        data.features,
        row_video=data.row_video,
        videos=data.videos,
        labels=labels,
        positions=data.positions,
        splits=data.splits if any(data.splits) else None,
        failed=failed,
    )


def numbered(data: ProbeData, numbers: npt.NDArray[np.float64] | None = None) -> ProbeData:
    """The same videos with numbers for labels; ``None``: a linear function of their mean vectors."""
    if numbers is None:
        means = data.video_means(np.arange(len(data.videos))).astype(np.float64)
        numbers = means @ np.linspace(-2, 2, means.shape[1])
    return make_data(
        data.features,
        row_video=data.row_video,
        videos=data.videos,
        labels=[repr(float(number)) for number in numbers],
        splits=data.splits if any(data.splits) else None,
        positions=data.positions,
        numbers=True,
    )


def names_of(data: ProbeData) -> list[str | None]:
    """The label of each video."""
    return [data.classes[label] if label >= 0 else None for label in data.labels]


def separable_classes_are_told_apart(probe: Subject) -> None:
    """Every split scores 1."""
    for data in (separable_data(), separable_data(splits=False)):
        result = run_probe(probe.name, data, probe.settings)
        assert set(result.splits) == ({"test_seen", "test_unseen"} if any(data.splits) else {"all"})
        for split, numbers in result.splits.items():
            for metric, found in numbers.metrics.items():
                assert found.value == found.low == found.high == 1, f"{probe.name}: {metric} of {split} is {found}"


def random_labels_give_chance(probe: Subject) -> None:
    """Accuracy on random labels is at chance, with and without splits; a leak would be far above."""
    for data in (random_data(splits=True), random_data(splits=False)):
        for split, numbers in run_probe(probe.name, data, probe.settings).splits.items():
            chance = 1 / NUM_CLASSES
            deviation = (chance * (1 - chance) / numbers.num_videos) ** 0.5
            found = _right(numbers)
            assert abs(found - chance) <= 3 * deviation, f"{probe.name}: {found} on {split}, chance is {chance}"


def groups_do_not_score_each_other(probe: Subject) -> None:
    """Labels drawn per group of nearly identical videos give chance: videos of a group do not score each other."""
    found = _right(run_probe(probe.name, grouped_data(), probe.settings).splits["all"])
    chance = 1 / NUM_CLASSES
    deviation = (chance * (1 - chance) / 60) ** 0.5
    assert abs(found - chance) <= 3 * deviation, f"{probe.name}: {found} by group, chance is {chance}"


def truth_of_test_videos_plays_no_part(probe: Subject) -> None:
    """Scores do not change when the labels of the test videos do."""
    data = separable_data(spread=0.5)
    is_test = np.array(data.splits) != "train"
    changed = [data.classes[-1] if test else label for test, label in zip(is_test, names_of(data), strict=True)]
    one, other = _scores(probe, data), _scores(probe, relabel(data, changed))
    assert np.array_equal(one, other), f"{probe.name} looks at the labels of test videos"


def scores_have_their_shape(probe: Subject) -> None:
    """Scores are [seeds, test videos, classes], no NaN, with a possible class per video, -inf for unseen classes."""
    data = separable_data()
    untaught = data.classes[0]
    kept = [
        None if split == "train" and label == untaught else label
        for split, label in zip(data.splits, names_of(data), strict=True)
    ]
    scores = _scores(probe, relabel(data, kept))
    assert scores.ndim == 3, f"{probe.name}: scores of shape {scores.shape}"
    assert scores.shape[1:] == (32, NUM_CLASSES), f"{probe.name}: scores of shape {scores.shape}"
    assert not np.isnan(scores).any(), f"{probe.name}: NaN among the scores"
    assert np.isfinite(scores).any(axis=-1).all(), f"{probe.name}: a video without any possible class"
    assert np.isneginf(scores[..., 0]).all(), f"{probe.name}: a class that no training video has can win"


def untaught_classes_count_as_wrong(probe: Subject) -> None:
    """Test videos of a class without training videos are scored, count as wrong, and are counted in the result."""
    data = separable_data()
    odd = [
        "new" if split == "test_seen" and label == "class0" else label
        for split, label in zip(data.splits, names_of(data), strict=True)
    ]
    result = run_probe(probe.name, relabel(data, odd), probe.settings)
    numbers = result.splits["test_seen"]
    assert (numbers.num_videos, numbers.num_unseen) == (16, 4), f"{probe.name}: {numbers}"
    assert _right(numbers) == 0.75, f"{probe.name}: {numbers.metrics}"
    assert any("no training video has" in note for note in result.notes), f"{probe.name}: {result.notes}"


def results_repeat(probe: Subject) -> None:
    """Two runs give the same result, except for the time."""
    data = separable_data(spread=1.0)
    one, other = (
        dataclasses.replace(run_probe(probe.name, data, probe.settings), seconds=0.0).to_json() for _ in range(2)
    )
    assert one == other, f"{probe.name} gives another result the second time"


def row_order_hardly_matters(probe: Subject) -> None:
    """Rows are tied to their videos by index, not by position."""
    data = separable_data(spread=0.3)
    order = np.random.default_rng(1).permutation(len(data.features))
    shuffled = make_data(
        data.features[order],
        positions={form: table[order] for form, table in data.positions.items()},
        row_video=data.row_video[order],
        videos=data.videos,
        labels=names_of(data),
        splits=data.splits,
    )
    for split, numbers in run_probe(probe.name, data, probe.settings).splits.items():
        found = _right(run_probe(probe.name, shuffled, probe.settings).splits[split])
        expected = _right(numbers)
        assert abs(found - expected) <= 2 / numbers.num_videos, f"{probe.name}: {found} against {expected} on {split}"


def coverage_is_carried(probe: Subject) -> None:
    """Failed and unlabelled videos are reported beside the numbers, and unlabelled ones are not scored."""
    data = separable_data()
    labels = names_of(data)
    labels[-1] = None
    failed = {"train": 2, "test_unseen": 3}
    result = run_probe(probe.name, relabel(data, labels, failed=failed), probe.settings)
    found = result.splits["test_unseen"]
    assert dataclasses.astuple(found.coverage) == (16, 3, 19, 1), f"{probe.name}: {found.coverage}"
    assert found.num_videos == 15, f"{probe.name}: {found.num_videos} videos scored"
    assert (result.train.ok, result.train.failed) == (24, 2), f"{probe.name}: {result.train}"


def one_class_is_refused(probe: Subject) -> None:
    """Training videos of a single class are an error that names the class."""
    data = separable_data()
    message = ""
    try:
        run_probe(probe.name, relabel(data, ["only"] * len(data.videos)), probe.settings)
    except ManifestError as error:
        message = str(error)
    assert "'only'" in message, f"{probe.name} accepts training videos of one class, or does not name it: {message!r}"


def one_video_a_class_is_enough(probe: Subject) -> None:
    """The smallest training set works: one video of one row per class."""
    corners = np.eye(NUM_CLASSES, NUM_CHANNELS)
    data = _placed_data(
        np.concatenate([corners, corners + 0.01]),
        row_video=np.arange(2 * NUM_CLASSES),
        videos=[str(index) for index in range(2 * NUM_CLASSES)],
        labels=[f"class{index % NUM_CLASSES}" for index in range(2 * NUM_CLASSES)],
        splits=["train"] * NUM_CLASSES + ["test"] * NUM_CLASSES,
    )
    found = _right(run_probe(probe.name, data, probe.settings).splits["test"])
    assert found == 1, f"{probe.name}: {found} with one video per class"


def linear_numbers_are_predicted(probe: Subject) -> None:
    """A number that is a linear function of the mean vector is predicted with a far smaller error than by the mean."""
    data = numbered(separable_data(spread=0.5))
    assert data.targets is not None
    result = run_probe(probe.name, data, probe.settings)
    assert result.num_classes == 0, f"{probe.name}: {result.num_classes} classes of numbers"
    for split, numbers in result.splits.items():
        spread = float(np.var(data.targets[np.array(data.splits) == split]))
        found = numbers.metrics["mse"]
        assert found.low <= found.value <= found.high, f"{probe.name}: {found}"
        assert found.value < 0.5 * spread, f"{probe.name}: error {found.value} on {split}, the variance is {spread}"


def random_numbers_are_not_predicted(probe: Subject) -> None:
    """The error on random numbers is their variance or more; a leak would be below."""
    for data in (random_data(splits=True), random_data(splits=False)):
        drawn = np.random.default_rng(3).normal(size=len(data.videos))
        for split, numbers in run_probe(probe.name, numbered(data, drawn), probe.settings).splits.items():
            found = numbers.metrics["mse"].value
            assert found > 0.8, f"{probe.name}: error {found} on {split}, the variance is 1"


def numbers_of_test_videos_play_no_part(probe: Subject) -> None:
    """Predictions do not change when the numbers of the test videos do."""
    data = separable_data(spread=0.5)
    drawn = np.random.default_rng(3).normal(size=len(data.videos))
    changed = np.where(np.array(data.splits) == "train", drawn, 0.0)
    one, other = (_scores(probe, numbered(data, numbers)) for numbers in (drawn, changed))
    assert np.array_equal(one, other), f"{probe.name} looks at the numbers of test videos"
    assert one.shape[1:] == (32, 1), f"{probe.name}: predictions of shape {one.shape}"


def numbers_are_refused(probe: Subject) -> None:
    """A probe for classes reports that it cannot predict numbers."""
    assert "numbers" in _refusal(probe, numbered(separable_data())), (
        f"{probe.name} accepts numbers, or does not name them"
    )


def classes_are_refused(probe: Subject) -> None:
    """A probe for numbers reports that it cannot tell classes apart."""
    assert "numbers" in _refusal(probe, separable_data()), (
        f"{probe.name} accepts classes, or does not say what it predicts"
    )


def settings_are_configuration(probe: Subject) -> None:
    """Settings are a frozen dataclass with defaults that survives JSON and refuses unknown keys."""
    kind = PROBES.load(probe.name).settings
    adapter = TypeAdapter(kind)
    plain = json.loads(json.dumps(dataclasses.asdict(kind())))
    assert adapter.validate_python(plain) == kind(), f"{kind.__name__} does not survive JSON"
    try:
        adapter.validate_python({**plain, "no_such_key": 1})
    except ValidationError:
        return
    raise AssertionError(f"{kind.__name__} accepts unknown keys; set __pydantic_config__")


def _refusal(probe: Subject, data: ProbeData) -> str:
    """The message with which a probe refuses data; empty if it accepts them."""
    try:
        run_probe(probe.name, data, probe.settings)
    except ConfigError as error:
        return str(error)
    return ""


def _right(numbers: SplitResult) -> float:
    """The share of a split's videos whose class was found: its top-1 accuracy, or R@1."""
    found = share_right(numbers.metrics)
    assert found is not None, f"metrics of a probe for classes are {', '.join(numbers.metrics)}"
    return found.value


def _scores(probe: Subject, data: ProbeData) -> npt.NDArray[np.floating]:
    splits = np.array(data.splits)
    train = np.flatnonzero((splits == "train") & (data.labels >= 0))
    task = Task(data=data, train=train, test=np.flatnonzero(splits != "train"), device="cpu")
    entry = PROBES.load(probe.name)
    return entry.run(task, probe.settings).scores


Check = Callable[[Subject], None]
CLASS_CHECKS: tuple[Check, ...] = (
    separable_classes_are_told_apart,
    random_labels_give_chance,
    groups_do_not_score_each_other,
    truth_of_test_videos_plays_no_part,
    scores_have_their_shape,
    untaught_classes_count_as_wrong,
    results_repeat,
    row_order_hardly_matters,
    coverage_is_carried,
    one_class_is_refused,
    one_video_a_class_is_enough,
)
NUMBER_CHECKS: tuple[Check, ...] = (
    linear_numbers_are_predicted,
    random_numbers_are_not_predicted,
    numbers_of_test_videos_play_no_part,
)


def checks_of(name: str) -> tuple[Check, ...]:
    """The checks that a probe must pass, by the kind of its predictions."""
    return {
        "classes": (*CLASS_CHECKS, numbers_are_refused, settings_are_configuration),
        "numbers": (*NUMBER_CHECKS, classes_are_refused, settings_are_configuration),
        "both": (*CLASS_CHECKS, *NUMBER_CHECKS, settings_are_configuration),
    }[PROBES.load(name).predicts]


class ProbeTests:
    """Test class of pytest for some probes; inherit from it and name them.

    Attributes:
        names: Registry names.
    """

    names: Sequence[str] = ()

    def settings_of(self, name: str) -> Any:
        """Settings to test a probe with; override it if the defaults take too long on a few hundred rows."""
        return small_settings(name)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each probe and check."""
        cases = [(name, check) for name in self.names for check in checks_of(name)]
        metafunc.parametrize(("name", "check"), cases, ids=[f"{name}-{check.__name__}" for name, check in cases])

    def test_conforms(self, name: str, check: Check) -> None:
        """The probe passes the check."""
        check(Subject(name=name, settings=self.settings_of(name)))
