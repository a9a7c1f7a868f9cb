import numpy as np
import pytest

from featcache.evaluation import probe as registry
from featcache.evaluation.probe import Prediction, probe_entries, register_probe
from featcache.evaluation.settings import KnnSettings
from featcache.testing import probes as suite


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{check.__name__}-{name}")
        for name in probe_entries()
        for check in suite.checks_of(name)
    ],
)
def test_probe(name, check):
    check(name)


def cheat(task, settings, /):
    """Knows every label."""
    scores = np.where(np.arange(len(task.data.classes)) == task.data.labels[task.test, None], 1.0, -np.inf)
    return Prediction(scores=scores[None])


def constant(task, settings, /):
    """Always says the last class of the training videos."""
    last = task.data.labels[task.train].max()
    scores = np.where(np.arange(len(task.data.classes)) == last, 1.0, 0.0)
    return Prediction(scores=np.tile(scores, (1, len(task.test), 1)))


def drifting(task, settings, /, _calls=[]):  # noqa: B006
    """Gives another result each time."""
    _calls.append(None)
    rng = np.random.default_rng(len(_calls))
    return Prediction(scores=rng.normal(size=(1, len(task.test), len(task.data.classes))))


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (cheat, suite.random_labels_give_chance),
        (cheat, suite.truth_of_test_videos_plays_no_part),
        (cheat, suite.untaught_classes_count_as_wrong),
        (constant, suite.separable_classes_are_told_apart),
        (constant, suite.scores_have_their_shape),
        (constant, suite.one_video_a_class_is_enough),
        (drifting, suite.results_repeat),
        (drifting, suite.row_order_hardly_matters),
    ],
    ids=lambda value: value.__name__,
)
def test_the_suite_catches_wrong_probes(wrong, check, monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    register_probe("wrong", summary="wrong", settings=KnnSettings)(wrong)
    with pytest.raises(AssertionError, match="wrong"):
        check("wrong")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="registered already"):
        register_probe("knn", summary="again", settings=KnnSettings)(constant)
