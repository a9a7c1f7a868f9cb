"""Several video backbones on one store's clips: the first decides their length, the others take them or say why not."""

import dataclasses

import pytest

from featcache.backbones import torchvision, videomae
from featcache.errors import ClipLengthError
from featcache.extract.prepare import prepare
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    published = videomae.VARIANTS["videomae-b"]
    monkeypatch.setitem(
        videomae.VARIANTS, "videomae-b", dataclasses.replace(published, width=24, num_blocks=1, num_heads=2)
    )


def settings_of(tmp_path, *names, **sampling):
    return ExtractSettings(
        source="never read",
        out=str(tmp_path / "store"),
        features=tuple(FeatureSettings(backbone=name, weights="random", input_size=32) for name in names),
        sampling=SamplingSettings(**sampling),
        runtime=RuntimeSettings(device="cpu", threads=1),
    )


def test_the_first_backbone_decides_and_the_second_takes_its_clips(tmp_path):
    """VideoMAE was trained on 16 frames at stride 4: it is given the 16 at stride 2 of the network before it."""
    prepared = prepare(settings_of(tmp_path, "r3d_18", "videomae-b"))
    assert (prepared.sampling.num_frames, prepared.sampling.frame_stride) == (16, 2)
    assert [feature.record.shape for feature in prepared.features] == [(512,), (24,)]


def test_a_backbone_that_cannot_take_the_clips_names_whose_they_are(tmp_path, monkeypatch):
    shorter = dataclasses.replace(torchvision.CARDS["r3d_18"], num_frames=9)
    monkeypatch.setitem(torchvision.CARDS, "r3d_18", shorter)
    message = (
        r"videomae-b joins 2 frames .* clips of 9; .* \(the clips have the frames of 'r3d_18', the first backbone\)"
    )
    with pytest.raises(ClipLengthError, match=message):
        prepare(settings_of(tmp_path, "r3d_18", "videomae-b"))


def test_a_length_that_was_asked_for_is_named_as_such(tmp_path):
    message = r"s3d takes clips of at least 5 frames, not 4; .* \(the clips have the frames of sampling\.num_frames\)"
    with pytest.raises(ClipLengthError, match=message):
        prepare(settings_of(tmp_path, "s3d", num_frames=4))
