"""What the shipped pipelines share: the settings of steps, a folder that is theirs alone, and videos that are made."""

import re
from pathlib import Path
from typing import get_args

import pytest

from featcache.commands.pipeline import DECIDED, claim_folder, decide, find_videos
from featcache.commands.registry import load, settings_class
from featcache.commands.steps import with_store
from featcache.config import apply_overrides, leaves, parse, read_mapping, to_dict, to_yaml
from featcache.data.motion import MotionSettings
from featcache.data.selection import Selection
from featcache.errors import ConfigError, StoppedError
from featcache.extract.settings import SamplingSettings
from featcache.shipped import find_config, load_pipeline

ScalePipelineSettings = load_pipeline("scale").ScalePipelineSettings
AdvisePipelineSettings = load_pipeline("advise").AdvisePipelineSettings
STEPS = {
    "svt": {"pretraining": "train-svt", "extraction": "extract", "finetuning": "train-finetune"},
    "scale": {"pretraining": "train-scale", "extraction": "extract"},
    "advise": {
        "pretraining": "train-advise", "extraction": "extract", "finetuning": "train-tmm", "figure": "figure-activation"
    },
    "quickstart": {"extraction": "extract", "temporal": "train-tmm"},
    "pretext_benchmark": {
        "pretraining": "train-pretext", "extraction": "extract", "finetuning": "train-finetune",
        "noise": "evaluate-noise", "cka": "evaluate-cka", "distillation": "train-distill",
    },
}  # fmt: skip
OTHER = {
    "selection": "{seed: 1}",
    "features": "[{backbone: i3d}]",
    "predictor": "{width: 32}",
    "model_seeds": "[1]",
    "test_splits": "[test]",
    "input_size": "64",
    "seed": "7",
    "compare_scratch": "true",
    "numbers": "true",
}
"""Values of settings that are no text."""


def test_a_folder_of_something_else_is_refused(tmp_path):
    settings = ScalePipelineSettings(out=str(tmp_path))
    claim_folder(settings)
    assert load(tmp_path / "config.yaml") == settings
    longer = parse(ScalePipelineSettings, {"out": str(tmp_path), "pretraining": {"training": {"epochs": 3}}})
    claim_folder(longer)
    assert load(tmp_path / "config.yaml").pretraining.training.epochs == 3
    with pytest.raises(ConfigError, match="another source; choose another out"):
        claim_folder(settings.model_copy(update={"source": "mine"}))
    sparse = parse(ScalePipelineSettings, {"out": str(tmp_path), "extraction": {"sampling": {"num_clips": 3}}})
    with pytest.raises(ConfigError, match=r"another extraction\.sampling; choose another out"):
        claim_folder(sparse)
    with pytest.raises(ConfigError, match="another command; choose another out"):
        claim_folder(AdvisePipelineSettings(out=str(tmp_path)))
    assert load(tmp_path / "config.yaml") == longer  # a refusal writes nothing


def test_a_folder_of_another_version_is_refused_in_words(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(ScalePipelineSettings()) + "clips_per_set: 8\n")
    with pytest.raises(ConfigError, match=r"cannot be continued: unknown key 'clips_per_set'.*; choose another out"):
        claim_folder(ScalePipelineSettings(out=str(tmp_path)))


def test_several_processes_are_refused_by_one_of_them(tmp_path, monkeypatch):
    settings = ScalePipelineSettings(out=str(tmp_path / "run"))
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun started 2 processes and a pipeline runs in one"):
        claim_folder(settings)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(StoppedError):
        claim_folder(settings)
    assert not (tmp_path / "run").exists()


def test_videos_are_those_given_or_a_motion_set_made_again(tmp_path):
    motion = MotionSettings(
        num_frames=8, size=32, num_unseen_pictures=21, train_per_picture_motion=1, test_seen_per_picture_motion=0,
        test_unseen_per_picture_motion=0,
    )  # fmt: skip
    stages = []

    def made(source=None):
        settings = ScalePipelineSettings(out=str(tmp_path), source=source, motion=motion)
        return find_videos(settings, on_stage=lambda *now: stages.append(now))

    assert made("mine") == "mine"
    assert not (tmp_path / "videos").exists()
    listing = tmp_path / "videos" / "motion.jsonl"
    assert made() == str(listing)
    clips = sorted((tmp_path / "videos").rglob("*.mp4"))
    assert len(clips) == 8
    assert stages[-1] == ("clips", 8, 8)
    before = [clip.read_bytes() for clip in clips]
    clips[0].write_bytes(b"half of a clip")
    listing.unlink()
    made()
    assert [clip.read_bytes() for clip in clips] == before
    assert listing.exists()


@pytest.mark.parametrize("name", STEPS)
def test_a_section_of_a_step_is_the_settings_of_its_command(name):
    kinds = {section: field.annotation for section, field in settings_class(name).model_fields.items()}
    assert {section: (get_args(kinds[section]) or (kinds[section],))[0] for section in STEPS[name]} == {
        section: settings_class(command) for section, command in STEPS[name].items()
    }


@pytest.mark.parametrize("file", ["advise/motion.yaml", "quickstart.yaml", "scale/motion.yaml", "svt/motion.yaml"])
def test_the_shipped_file_of_a_pipeline_has_every_setting(file):
    path = find_config(Path("configs", file))
    assert to_dict(load(path)) == read_mapping(path)


@pytest.mark.parametrize("name", STEPS)
def test_files_lack_what_the_pipeline_decides_and_giving_it_is_refused(name):
    kind = settings_class(name)
    written = dict(leaves(to_dict(kind()), ""))
    assert DECIDED not in written.values()
    for key in kind.all_decided():
        assert not any(each == key or each.startswith(f"{key}.") for each in written), key
        with pytest.raises(ConfigError, match=f"^{re.escape(key)} is decided by the pipeline itself; "):
            parse(kind, apply_overrides({}, [f"{key}={OTHER.get(key.rpartition('.')[2], 'mine')}"]))


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("svt", "pretraining.source=mine", "pretraining.source is decided by the pipeline itself; give source instead"),
        ("svt", "probes.label=motion", "probes.label is decided by the pipeline itself; give labels instead"),
        ("advise", "finetuning.init=mine", "finetuning.init is decided by the pipeline itself; leave it out"),
        (
            "scale",
            "pretraining.trainings.epochs=3",
            "unknown key 'trainings'; did you mean 'training'? (in pretraining)",
        ),
        ("svt", "input_size=33", "input_size: Input should be a multiple of 16 (got 33)"),
    ],
)
def test_a_mistake_in_a_step_names_its_key(name, assignment, message):
    with pytest.raises(ConfigError) as error:
        parse(settings_class(name), apply_overrides({}, [assignment]))
    assert str(error.value) == message


def test_a_step_is_its_section_and_what_the_pipeline_decides():
    settings = parse(ScalePipelineSettings, {"extraction": {"shard_rows": 7}, "selection": {"test_fraction": 0.5}})
    own = {"source": "mine", "selection": settings.selection, "features": (settings.feature,), "out": "store"}
    made = decide(settings.extraction, own)
    assert (made.source, made.selection, made.out) == ("mine", Selection(test_fraction=0.5), "store")
    assert (made.features, made.sampling, made.shard_rows) == ((settings.feature,), settings.extraction.sampling, 7)
    assert isinstance(made.sampling, SamplingSettings)
    with pytest.raises(AssertionError, match=r"does not decide \['source'\]"):
        decide(settings.extraction, {"features": (settings.feature,), "out": "store"})


@pytest.mark.parametrize("name", STEPS)
def test_the_store_of_a_pipeline_is_its_own(name):
    assert with_store({"command": name}, store="stores/mine", feature="x") == {"command": name}
