"""Nearest neighbours of the teacher's features during training, which they do not change."""

import pytest
import torch

from featcache.loaders.settings import MonitorSettings
from featcache.methods.svt.run import pretrain_svt
from featcache.training.logs import read_log
from featcache.training.loop import trained_state
from tests.methods.finetune.helpers import write_classes
from tests.methods.svt.helpers import small_views
from tests.methods.svt.shared_runs import settings

EPOCHS = (2, 4)
"""Those after which it is measured."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monitored")
    (folder / "videos").mkdir()
    write_classes(folder / "videos", {"train": 4, "test": 3})
    return folder


def chosen(folder, name, *, knn_epochs=2):
    """Four epochs on eight videos, with stochastic depth."""
    return settings(
        folder,
        name,
        source=str(folder / "videos" / "videos.parquet"),
        drop_path=0.3,
        views=small_views(global_frames=(2, 4), local_frames=(2,), flip_probability=0.0),
        monitor=MonitorSettings(knn_epochs=knn_epochs, videos=6),
    )


def lines(folder):
    return [{name: each for name, each in line.items() if "_per_" not in name} for line in read_log(folder / "seed-0")]


def test_the_training_is_the_same_with_a_monitor_and_a_resumed_run_is_monitored_as_well(folder):
    said = []
    result = pretrain_svt(chosen(folder, "one"), on_stage=lambda *figures: said.append(figures))
    plain = pretrain_svt(chosen(folder, "without", knn_epochs=0))
    assert [("kNN" in each.summary().tables[0].columns) for each in (result, plain)] == [True, False]

    def kill(stage, done, total, note="", num_failed=0):
        if (stage, done) == ("seed 0", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_svt(chosen(folder, "killed"), on_stage=kill)
    pretrain_svt(chosen(folder, "killed"))
    one, without, killed = (trained_state(folder / name / "seed-0") for name in ("one", "without", "killed"))
    assert one.identity == without.identity
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, without.tensors[name]), name
        assert torch.equal(tensor, killed.tensors[name]), name
    found = {line["epoch"]: line["knn_top1"] for line in lines(folder / "one") if "knn_top1" in line}
    assert tuple(found) == EPOCHS
    assert all(0 <= value <= 1 and value * 6 == pytest.approx(round(value * 6)) for value in found.values())
    assert found == {line["epoch"]: line["knn_top1"] for line in lines(folder / "killed") if "knn_top1" in line}
    assert not any("knn_top1" in line for line in lines(folder / "without"))
    assert result.seeds[0]["knn_top1"] == found[4]
    assert [figures for figures in said if figures[0] == "knn"] == [("knn", 12, 12)] * len(EPOCHS)
    notes = {done: note for stage, done, _, note, *_ in (each for each in said if each[0] == "seed 0")}
    assert "knn" not in notes[1]
    assert f"knn_top1 {found[2]:.3f}" in notes[2]
    assert f"knn_top1 {found[2]:.3f}" in notes[3]
