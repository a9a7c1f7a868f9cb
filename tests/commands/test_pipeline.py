"""How pipelines begin: a folder is theirs alone, and what a killed run left of a motion set is made anew."""

import pytest

from featcache.commands.pipeline import claim_folder, find_videos, repeated
from featcache.commands.registry import load, settings_class
from featcache.data.motion import MotionSettings
from featcache.errors import ConfigError, StoppedError
from featcache.shipped import load_pipeline

ScalePipelineSettings = load_pipeline("scale").ScalePipelineSettings
AdvisePipelineSettings = load_pipeline("advise").AdvisePipelineSettings
FIXED = ("source", "motion")


def test_a_folder_of_something_else_is_refused(tmp_path):
    settings = ScalePipelineSettings(out=str(tmp_path))
    claim_folder(tmp_path, settings, fixed=FIXED)
    assert load(tmp_path / "config.yaml") == settings
    claim_folder(tmp_path, settings.model_copy(update={"clips_per_set": 3}), fixed=FIXED)
    assert load(tmp_path / "config.yaml").clips_per_set == 3
    with pytest.raises(ConfigError, match="another source; choose another out"):
        claim_folder(tmp_path, settings.model_copy(update={"source": "mine"}), fixed=FIXED)
    with pytest.raises(ConfigError, match="another command; choose another out"):
        claim_folder(tmp_path, AdvisePipelineSettings(out=str(tmp_path)), fixed=FIXED)
    assert load(tmp_path / "config.yaml").clips_per_set == 3  # a refusal writes nothing


def test_several_processes_are_refused_by_one_of_them(tmp_path, monkeypatch):
    settings = ScalePipelineSettings(out=str(tmp_path / "run"))
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun started 2 processes and a pipeline runs in one"):
        claim_folder(tmp_path / "run", settings, fixed=FIXED)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(StoppedError):
        claim_folder(tmp_path / "run", settings, fixed=FIXED)
    assert not (tmp_path / "run").exists()


def test_videos_are_those_given_or_a_motion_set_made_again(tmp_path):
    motion = MotionSettings(
        num_frames=8, size=32, num_unseen_pictures=21, train_per_picture_motion=1, test_seen_per_picture_motion=0,
        test_unseen_per_picture_motion=0,
    )  # fmt: skip
    stages = []

    def made(source=None):
        return find_videos(source, folder=tmp_path / "videos", motion=motion, on_stage=lambda *now: stages.append(now))

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


@pytest.mark.parametrize(
    ("pipeline", "command", "own"),
    [
        ("svt", "train-svt", {"dataset", "root", "decoder", "deadline_seconds", "max_gigapixels", "train_split"}),
        ("scale", "train-scale", {"sets"}),
    ],
)
def test_a_pipeline_has_every_setting_of_what_it_repeats(pipeline, command, own):
    lacking = settings_class(command).model_fields.keys() - settings_class(pipeline).model_fields.keys()
    assert lacking == own | {"training"}  # of which the pipeline has its own


def test_what_is_repeated_is_what_the_pipeline_says():
    settings = ScalePipelineSettings(clips_per_set=3, coordinates="zero")
    own = {"sets": {"store": "s"}, "training": settings.pretraining, "out": "run"}
    made = repeated(settings_class("train-scale"), settings, own=own)
    assert (made.clips_per_set, made.coordinates, made.heads, made.out) == (3, "zero", settings.heads, "run")
    assert made.command == "train-scale"
