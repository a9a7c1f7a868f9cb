"""Networks kept at chosen epochs: of a straight run, of a killed one, and of one that was finished without."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from featcache.config import parse, to_dict
from featcache.errors import ConfigError
from featcache.training import kept as kept_module
from featcache.training.checkpoint import read_checkpoint
from featcache.training.kept import KeptEpochs, NetworkFile
from featcache.training.loop import train
from featcache.training.seeds import open_runs
from featcache.training.settings import TrainingSettings
from tests.training.test_loop import SETTINGS, TOY, Killed, Toy, equal
from tests.training.test_seeds import LOOP, ToySettings, trained

FACTS = {"backbone": "toy"}


def kept(folder, *epochs):
    return KeptEpochs(folder=folder, seed=3, epochs=epochs, network=NetworkFile(child="", facts=FACTS))


def run(folder, keep, settings=SETTINGS, *, on_step=lambda report: None):
    return train(
        Toy(), settings, folder=folder, seed=3, identity=TOY, facts={}, kept=keep, on_step=on_step
    )  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "accumulate": 2}])
def test_a_kept_network_is_that_of_a_run_of_so_many_epochs(tmp_path, changes):
    constant = SETTINGS.model_copy(update={"schedule": TrainingSettings().schedule, **changes})
    constant = parse(TrainingSettings, {**to_dict(constant), "schedule": {"kind": "constant"}})
    last = run(tmp_path / "whole", kept(tmp_path / "whole", 2, 6), constant)
    short = run(tmp_path / "short", None, constant.model_copy(update={"epochs": 2}))
    at = {epoch: load_file(tmp_path / f"whole/epoch-{epoch:03d}.safetensors") for epoch in (2, 6)}
    for epoch, module in ((2, short), (6, last)):
        assert at[epoch].keys() == module.state_dict().keys()
        assert all(torch.equal(at[epoch][name], tensor) for name, tensor in module.state_dict().items())
    with safe_open(tmp_path / "whole/epoch-002.safetensors", "pt") as file:
        assert json.loads(file.metadata()["featcache"]) == {**FACTS, "seed": 3, "epoch": 2}
    assert equal(run(tmp_path / "none", None, constant), last)


@pytest.mark.parametrize("place", ["before the file", "before the checkpoint", "a step later"])
def test_a_run_killed_at_a_kept_epoch_leaves_the_same_file(tmp_path, monkeypatch, place):
    run(tmp_path / "straight", kept(tmp_path / "straight", 2))
    mine = tmp_path / "killed"
    path = mine / "epoch-002.safetensors"
    write = kept_module.write_weights

    def die(*given, **named):
        raise Killed

    def kill(report):
        if report.epoch == 2 + (place == "a step later") / Toy.num_batches:
            raise Killed

    is_file = place == "before the file"
    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "write_weights", die if is_file else write)
        with pytest.raises(Killed):
            run(mine, kept(mine, 2), on_step=(lambda report: None) if is_file else kill)
    if place == "before the checkpoint":
        assert read_checkpoint(mine) is None
    else:
        assert read_checkpoint(mine).step == 2 * Toy.num_batches
    assert path.exists() == (place == "a step later")
    written = []
    monkeypatch.setattr(
        kept_module, "write_weights", lambda *given, **named: (written.append(1), write(*given, **named))
    )
    run(mine, kept(mine, 2))
    assert written == [1]
    assert path.read_bytes() == (tmp_path / "straight/epoch-002.safetensors").read_bytes()


def test_an_epoch_that_has_passed_is_a_sentence_and_the_last_one_can_still_be_kept(tmp_path):
    finished = run(tmp_path, None)
    with pytest.raises(ConfigError, match=r"trained 6 epochs and kept no weights of epoch 4.*take 4 out"):
        run(tmp_path, kept(tmp_path, 4, 6))
    assert not list(tmp_path.glob("epoch-*"))
    run(tmp_path, kept(tmp_path, 6))
    at = load_file(tmp_path / "epoch-006.safetensors")
    assert all(torch.equal(at[name], tensor) for name, tensor in finished.state_dict().items())


def test_every_seed_keeps_its_own_and_a_method_without_a_network_refuses(tmp_path):
    chosen = parse(TrainingSettings, {**to_dict(LOOP), "keep_epochs": [1]})
    trained(tmp_path, lambda *figures: None, training=chosen)
    files = [tmp_path / f"seed-{seed}/epoch-001.safetensors" for seed in chosen.seeds]
    assert load_file(files[0])["weight"] != load_file(files[1])["weight"]
    settings = ToySettings(training=chosen)
    with pytest.raises(ConfigError, match=r"this run writes no network of its own; leave training\.keep_epochs out"):
        open_runs(settings, chosen, name="toy", of="none", out="unused")
    assert not (tmp_path / "unused").exists()


def test_an_epoch_beyond_the_run_is_a_sentence():
    with pytest.raises(ConfigError, match=r"names epoch 60 of a run of 50; take it out, or set training\.epochs=70"):
        parse(TrainingSettings, {"epochs": 50, "keep_epochs": [10, 60, 70]})
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        parse(TrainingSettings, {"keep_epochs": [0]})


def test_keeping_epochs_leaves_the_run_what_it_is(tmp_path):
    trained(tmp_path, lambda *figures: None)
    more = parse(TrainingSettings, {**to_dict(LOOP), "keep_epochs": [2]})
    trained(tmp_path, lambda *figures: pytest.fail("a step was done"), training=more)
    assert (tmp_path / "seed-3/epoch-002.safetensors").exists()
