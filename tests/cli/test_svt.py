"""Flags of ``train svt`` as settings; nothing is trained."""

import pytest

from featcache.errors import FeatcacheError
from tests.cli import helpers


def settings_of(*words):
    return helpers.settings_of("train", "svt", *words)


def test_a_video_transformer_has_the_published_settings_unless_told():
    settings = settings_of("videos")
    assert (settings.source, settings.size, settings.init.start, settings.workers) == ("videos", "base", "random", None)
    training = settings.training
    assert (training.epochs, training.batch_size, training.clip_each_norm) == (20, 32, 3.0)
    assert (training.optimiser.lr_batch, training.schedule.warmup_fraction) == (256, 0.25)
    words = "--dataset kinetics400 --root data --size tiny --init dino.pth --workers 3 --epochs 5 --seed 1 --seed 2"
    told = settings_of(*words.split(), "--set", "views.flip_probability=0")
    assert (told.dataset, told.root, told.size, told.workers) == ("kinetics400", "data", "tiny", 3)
    assert (told.init.start, told.init.weights, told.views.flip_probability) == ("image", "dino.pth", 0)
    assert (told.training.seeds, told.training.schedule.warmup_fraction) == ((1, 2), 0.25)


def test_flags_come_on_top_of_a_file():
    file = "--config", "configs/svt/k400_vitb.yaml"
    shipped = settings_of(*file)
    assert (shipped.dataset, shipped.drop_path, shipped.init.start) == ("kinetics400", 0.1, "image")
    elsewhere = settings_of(*file, "--dataset", "kinetics400", "--root", "data")
    assert elsewhere == shipped.model_copy(update={"root": "data"})
    assert settings_of(*file, "--root", "data") == elsewhere
    other = settings_of("videos", *file, "--epochs", "4", "--subset", "60", "--set", "views.local_time=0.25")
    assert (other.source, other.dataset, other.root) == ("videos", None, None)
    assert (other.training.epochs, other.training.schedule.warmup_fraction) == (4, 0.25)
    assert (other.selection.subset, other.views.local_time) == (60, 0.25)
    assert other.head == shipped.head


def test_a_file_of_a_run_is_taken(tmp_path):
    own = tmp_path / "config.yaml"
    own.write_text("command: train-svt\nsource: videos\nsize: tiny\ntraining: {epochs: 3, device: cpu}\n")
    settings = settings_of("--config", str(own), "--workers", "0")
    assert (settings.source, settings.size, settings.workers) == ("videos", "tiny", 0)
    assert (settings.training.epochs, settings.training.device) == (3, "cpu")


def test_a_file_of_another_command_is_refused():
    with pytest.raises(FeatcacheError, match=r"of the command 'svt'; carry it out with `featcache run "):
        settings_of("--config", "configs/svt/motion.yaml")
