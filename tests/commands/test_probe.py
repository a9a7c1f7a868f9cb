"""Probes that are killed, repeated or changed: what is computed again, and with what result."""

import dataclasses
import json
import shutil

import pytest
import torch

from featcache.commands.probe import probe, probe_settings
from featcache.config import parse
from featcache.errors import RecipeMismatchError
from featcache.evaluation import clip_probe, run
from featcache.evaluation.parts import Parts
from featcache.evaluation.settings import ClipTraining, MlpSettings
from featcache.metrics.predictions import read_outcomes
from featcache.testing import stores
from featcache.testing.probes import separable_data, tiny_model
from featcache.training.checkpoint import read_checkpoint, write_checkpoint
from featcache.training.identity import Identity

PLAN = stores.StorePlan(records={"clips": stores.make_record((6,))}, num_videos=24, rows_per_video=(4, 6))
CLIPS = {"epochs": 3, "batch_sizes": [8], "seeds": [0, 1], "lrs": [1e-3, 1e-2, 0.1]}
PREDICTOR = {"width": 32, "depth": 1, "position_hidden": 8, "dropout": 0.2}
OWN = {
    "linear": {"epochs": 3, "seeds": [0, 1], "lrs": [1e-2, 0.1], "batch_size": 16},
    "mlp": {"hidden": [8, 4], "training": {**CLIPS, "batch_norms": [False, True]}},
    "transformer": {"predictor": PREDICTOR, "training": CLIPS},
}


@pytest.fixture(autouse=True)
def _small_stacks(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(clip_probe, "CLIPS_IN_STACK", 100)  # two or three networks at once
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "store"
    stores.write_store(path, PLAN)
    return path


def settings(name, store, out, **changes):
    own = {name: OWN[name]} if name in OWN else {}
    plain = {"store": str(store), "out": str(out), "device": "cpu", "checkpoint_seconds": 0, **own, **changes}
    return parse(probe_settings(name), {"command": f"probe-{name}", **plain})


def plain(folder):
    return {**json.loads((folder / "result.json").read_text()), "seconds": 0}


@pytest.mark.parametrize("name", ["linear", "mlp", "transformer"])
def test_a_killed_probe_goes_on_and_equals_a_straight_one(name, store, tmp_path):
    straight = []
    probe(settings(name, store, tmp_path / "straight"), on_stage=lambda *report: straight.append(report[:3]))
    killed_at = len(straight) // 3, 2 * len(straight) // 3
    seen = []
    for moment in killed_at:

        def kill(*report):
            seen.append(report[:3])
            if report[:3] == straight[moment]:  # noqa: B023  called before the next moment
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            probe(settings(name, store, tmp_path / "killed"), on_stage=kill)
        assert not (tmp_path / "killed" / "result.json").exists()
    probe(settings(name, store, tmp_path / "killed"), on_stage=lambda *report: seen.append(report[:3]))
    assert plain(tmp_path / "killed") == plain(tmp_path / "straight")
    one, other = (tmp_path / where / "predictions.parquet" for where in ("straight", "killed"))
    assert one.read_bytes() == other.read_bytes()
    assert len(seen) < 1.5 * len(straight)  # started anew each time it would be twice as many
    assert not (tmp_path / "killed" / "parts").exists()


def test_a_finished_probe_is_not_computed_again(store, tmp_path, monkeypatch):
    first = probe(settings("knn", store, tmp_path / "out"))
    monkeypatch.setattr(run, "run_probe", None)
    again = probe(settings("knn", store, tmp_path / "out", device="auto"))
    assert again.is_kept
    assert again.to_dict() == first.to_dict()
    assert again.summary().tables == first.summary().tables
    assert "kept in" in again.summary().lines[-1]
    (tmp_path / "out" / "predictions.parquet").unlink()
    monkeypatch.undo()
    assert not probe(settings("knn", store, tmp_path / "out")).is_kept
    assert len(read_outcomes(tmp_path / "out").keys) == first.result.splits[next(iter(first.result.splits))].num_videos


def test_another_probe_in_the_folder_is_refused_by_what_differs(store, tmp_path):
    out = tmp_path / "out"
    probe(settings("knn", store, out))
    with pytest.raises(RecipeMismatchError, match=r"holds a probe with knn\.temperature 0\.07, which is 0\.5 here"):
        probe(settings("knn", store, out, knn={"temperature": 0.5}))
    other = tmp_path / "store"
    stores.write_store(other, dataclasses.replace(PLAN, first_video=1))
    with pytest.raises(RecipeMismatchError, match="content of store"):
        probe(settings("knn", other, out))


def test_a_model_counts_by_its_weights_and_not_by_its_path(tmp_path):
    store, one, two = (tmp_path / name for name in ("store", "one", "two"))
    stores.write_store(store, dataclasses.replace(PLAN, records={"clips": stores.make_record((8,))}))
    shutil.copytree(tiny_model(), one)
    shutil.copytree(tiny_model(), two)
    probe(settings("knn", store, tmp_path / "out", knn={"model": str(one)}))
    assert probe(settings("knn", store, tmp_path / "out", knn={"model": str(two)})).is_kept
    (seed,) = two.glob("seed-*")
    checkpoint = read_checkpoint(seed)
    changed = {name: tensor + 1 for name, tensor in checkpoint.tensors.items()}
    write_checkpoint(seed, dataclasses.replace(checkpoint, tensors=changed))
    with pytest.raises(RecipeMismatchError, match=r"content of knn\.model"):
        probe(settings("knn", store, tmp_path / "out", knn={"model": str(two)}))


def test_a_killed_probe_of_other_settings_is_refused(store, tmp_path):
    def kill(stage, done, total, note="", num_failed=0):
        if stage == "grid" and done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(settings("linear", store, tmp_path / "out"), on_stage=kill)
    changed = {"linear": {**OWN["linear"], "momentum": 0.5}}
    with pytest.raises(RecipeMismatchError, match="momentum"):
        probe(settings("linear", store, tmp_path / "out", **changed))


def test_each_network_is_counted(store, tmp_path):
    seen = {}
    probe(
        settings("transformer", store, tmp_path / "out"),
        on_stage=lambda stage, done, total, note="", num_failed=0: seen.setdefault(stage, []).append((done, total)),
    )
    last = {stage: reports[-1] for stage, reports in seen.items()}
    assert last == {"read": (120, 120), "grid": (6, 6), "chosen": (2, 2)}
    for reports in seen.values():
        dones = [done for done, _ in reports]
        assert dones == sorted(dones)


def test_finished_folds_are_kept(tmp_path):
    data = separable_data(splits=False, spread=0.5)
    own = MlpSettings(hidden=(8, 4), training=ClipTraining(epochs=2, batch_sizes=(16,), seeds=(0,), lrs=(1e-2, 0.1)))
    straight = run.run_probe("mlp", data, own)
    parts = Parts(folder=tmp_path, identity=Identity(values={"probe": "mlp"}), seconds=0)

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "fold 3/5 chosen":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run_probe("mlp", data, own, parts=parts, on_stage=kill)
    seen = []
    resumed = run.run_probe(
        "mlp", data, own, parts=parts, on_stage=lambda stage, *report: seen.append((stage, *report))
    )
    assert {stage.partition("/")[0] for stage, *_ in seen} == {"fold 3", "fold 4", "fold 5"}
    assert [report[1:3] for report in seen if report[0] == "fold 3/5 grid"] == [(1, 2), (2, 2)]  # kept, not trained
    one, other = (dataclasses.replace(each, seconds=0.0).to_dict() for each in (straight, resumed))
    assert one == other
    assert (straight.predictions.scores == resumed.predictions.scores).all()
