import dataclasses

import numpy as np
import pytest

from featcache.evaluation.knn import knn
from featcache.evaluation.probe import PROBES, Prediction, ProbeEntry
from featcache.evaluation.settings import KnnSettings
from featcache.plugins import BUILT_IN
from featcache.testing import probes as suite
from featcache.testing.plugins import put_package


class TestBuiltIn(suite.ProbeTests):
    names = tuple(place.name for place in PROBES.places() if place.origin == BUILT_IN)


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


def by_video(task, settings, /):
    """Leaves out videos where it should leave out groups."""
    return knn(dataclasses.replace(task, data=dataclasses.replace(task.data, groups=None)), settings)


CHEAT, CONSTANT, DRIFTING = (ProbeEntry(probe=probe, settings=KnnSettings) for probe in (cheat, constant, drifting))
BY_VIDEO = ProbeEntry(probe=by_video, settings=KnnSettings, leaves_one_out=True)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (cheat, suite.random_labels_give_chance),
        (by_video, suite.groups_do_not_score_each_other),
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
def test_the_suite_catches_wrong_probes(wrong, check, tmp_path, monkeypatch):
    target = f"{__name__}:{wrong.__name__.upper()}"
    monkeypatch.syspath_prepend(put_package(tmp_path, "lab", files={}, entries={"featcache.probes": {"wrong": target}}))
    with pytest.raises(AssertionError, match="wrong"):
        check(suite.Subject(name="wrong", settings=KnnSettings()))
