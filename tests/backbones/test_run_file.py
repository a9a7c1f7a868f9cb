"""The trained network of a run, found by its folder or its files."""

import pytest
from torch import nn

from featcache.backbones.run_file import find_run_file, read_run_file
from featcache.backbones.weights import write_weights
from featcache.errors import ConfigError


def write(path, backbone="r21d-tiny", **facts):
    write_weights(path, nn.Linear(1, 1), facts={"backbone": backbone, **facts})
    return path


def test_a_run_stands_for_its_network_and_epochs_are_named(tmp_path):
    run = tmp_path / "rot"
    last = write(run / "seed-0" / "backbone.safetensors", recipe={"num_frames": 8})
    epoch = write(run / "seed-0" / "epoch-050.safetensors")
    for given in (run, run / "seed-0", last):
        found = find_run_file(str(given))
        assert (found.path, found.backbone, found.name) == (last, "r21d-tiny", "rot seed-0")
        assert found.settings == {"num_frames": 8}
    found = find_run_file(str(epoch))
    assert (found.name, found.settings) == ("rot seed-0 epoch-050", {})


def test_one_of_several_seeds_is_to_be_named(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"seed-{seed}" / "teacher.safetensors")
    with pytest.raises(ConfigError, match=r"has seed-0, seed-1; name one, e\.g\. .*seed-0"):
        find_run_file(str(tmp_path))
    assert find_run_file(str(tmp_path / "seed-1")).name.endswith("seed-1")


def test_what_is_no_run(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="holds no trained network; give the folder of a `featcache train` run"):
        find_run_file(str(tmp_path))
    plain = tmp_path / "plain.safetensors"
    write_weights(plain, nn.Linear(1, 1), facts={})
    assert find_run_file(str(plain)) is None
    assert read_run_file(plain) is None
    assert find_run_file("nowhere") is None
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r21d" / "seed-0" / "backbone.safetensors")
    assert find_run_file("r21d") is None  # a backbone's name wins
    assert find_run_file("./r21d").backbone == "r21d-tiny"
