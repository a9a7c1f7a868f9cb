"""Videos that are nearly one: clips of one recording must not score each other, nor count as independent."""

import dataclasses

import numpy as np
import pytest

from featcache.errors import ManifestError
from featcache.evaluation.companions import nearest_twin
from featcache.evaluation.data import make_data
from featcache.evaluation.knn import knn
from featcache.evaluation.probe import Task
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import ClipTraining, KnnSettings, LinearSettings, MlpSettings, TransformerSettings
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import SetPredictorSettings

TRAINING = ClipTraining(lrs=(1e-2,), batch_sizes=(256,), seeds=(0,), epochs=5)
SETTINGS = {
    "knn": KnnSettings(ks=(1, 5)),
    "linear": LinearSettings(lrs=(0.1,), optimizers=("sgd",), batch_norms=(False,), seeds=(0,), epochs=10),
    "mlp": MlpSettings(hidden=(32, 16), training=TRAINING),
    "transformer": TransformerSettings(
        predictor=SetPredictorSettings(width=32, depth=1, position_hidden=16, dropout=0.0), training=TRAINING
    ),
}
INTERVALS = IntervalSettings(num_resamples=200)


def planted(seed, *, num_groups=20, num_clips=4, num_classes=4, grouped=True, splits=None, contents=()):
    """Groups of nearly equal clips, labels drawn per group, so that nothing but the group can be recognised."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), num_clips)
    num_videos = len(group)
    rows = rng.normal(size=(num_groups, 32))[group] + 0.01 * rng.normal(size=(num_videos, 32))
    return make_data(
        rows,
        row_video=np.arange(num_videos),
        videos=[f"video{number:03d}" for number in range(num_videos)],
        labels=[f"class{label}" for label in rng.integers(num_classes, size=num_groups)[group]],
        splits=splits,
        positions={"box6": np.zeros((num_videos, 6), np.float32)},
        groups=[f"g{number}" for number in group] if grouped else None,
        group_column="group" if grouped else None,
        contents=contents,
    )


@pytest.mark.parametrize(
    ("name", "num_draws"),
    [
        ("knn", 24),
        ("linear", 6),
        pytest.param("mlp", 6, marks=pytest.mark.slow),
        pytest.param("transformer", 6, marks=pytest.mark.slow),
    ],
)
def test_groups_give_chance_where_videos_give_everything(name, num_draws):
    def top1(seed, *, grouped):
        data = planted(seed, grouped=grouped)
        result = run_probe(name, data, SETTINGS[name], intervals=INTERVALS)
        return 100 * result.splits["all"].metrics["top1"].value

    found = np.mean([top1(seed, grouped=True) for seed in range(num_draws)])
    assert found == pytest.approx(25, abs=8)
    by_video = top1(0, grouped=False)
    print(f"{name}: by group {found:.1f}, by video {by_video:.1f}")
    assert by_video == 100 if name == "knn" else by_video > 75  # nothing but the group can be recognised


def test_the_protocol_and_the_intervals_say_that_they_are_by_group():
    data = planted(0)
    result = run_probe("knn", data, SETTINGS["knn"])
    assert result.protocol == "leave-one-group-out over groups of column 'group'"
    assert "intervals of 'all' are over 20 groups of column 'group', not over 80 videos" in result.notes
    assert run_probe("linear", data, SETTINGS["linear"]).protocol == result.protocol
    many = planted(0, num_groups=40, num_clips=2)
    assert run_probe("linear", many, SETTINGS["linear"]).protocol == "5 folds over groups of column 'group'"


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_neighbours_are_of_other_groups(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    data = planted(3)
    videos = np.arange(len(data.videos))
    task = Task(data=data, train=videos, test=videos, device="cpu")
    found = knn(task, KnnSettings(ks=(1,), backend=backend)).scores[0].argmax(axis=1)
    means = data.video_means(videos)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosine = np.where(data.groups[:, None] == data.groups, -np.inf, unit @ unit.T)
    np.testing.assert_array_equal(found, data.labels[cosine.argmax(axis=1)])


def test_the_choice_of_settings_holds_out_groups(monkeypatch):
    from featcache.evaluation import choosing

    data = planted(1, splits=["train"] * 60 + ["test"] * 20)
    seen = []

    def hold_out(labels, *, fraction, seed, groups):
        held = original(labels, fraction=fraction, seed=seed, groups=groups)
        seen.append((held, groups))
        return held

    original = choosing.hold_out
    monkeypatch.setattr(choosing, "hold_out", hold_out)
    run_probe("linear", data, dataclasses.replace(SETTINGS["linear"], lrs=(0.01, 0.1)))
    ((held, groups),) = seen
    assert held.any()
    assert not set(groups[held]) & set(groups[~held])


def test_low_shot_training_takes_whole_groups():
    data = planted(1, splits=["train"] * 60 + ["test"] * 20)
    result = run_probe("knn", data, SETTINGS["knn"], low_shot=0.5)
    (note,) = (note for note in result.notes if "low_shot" in note)
    assert int(note.split()[0]) % 4 == 0


def test_groups_on_both_sides_of_a_split_are_named():
    splits = ["train", "train", "test", "test"] * 20
    notes = run_probe("knn", planted(0, splits=splits), SETTINGS["knn"]).notes
    assert any(note.startswith("20 groups have videos in the training split and in 'test'") for note in notes)


def test_without_groups_near_duplicates_are_counted_and_named():
    splits = ["train", "train", "test", "test"] * 20
    contents = [f"sha256:{number // 2 % 2}-{number // 4}" for number in range(80)]
    contents[2] = contents[0]
    data = planted(0, splits=splits, grouped=False, contents=contents)
    (note,) = (note for note in run_probe("knn", data, SETTINGS["knn"]).notes if "near-duplicate" in note)
    assert note.startswith("40 of 40 videos of 'test' have a near-duplicate among the training videos")
    assert "1 of them the same file" in note
    apart = planted(0, num_groups=80, num_clips=1, splits=splits, grouped=False)
    assert not any("near-duplicate" in note for note in run_probe("knn", apart, SETTINGS["knn"]).notes)


def test_a_twin_is_never_the_video_itself():
    data = planted(5, num_groups=6, num_clips=2, grouped=False)
    videos = np.arange(12)
    twins = nearest_twin(data, videos, videos, device="cpu")
    np.testing.assert_array_equal(twins, videos ^ 1)


def test_one_group_alone_cannot_be_scored():
    data = planted(0, num_groups=1, num_clips=6)
    with pytest.raises(ManifestError, match="of one group in column 'group'"):
        run_probe("knn", data, SETTINGS["knn"])
