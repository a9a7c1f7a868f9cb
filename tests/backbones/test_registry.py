"""The registry, and the example of the documentation as a newcomer would paste it."""

import re
from pathlib import Path

import pytest

from featcache.backbones import backbone_entries, base, build_backbone
from featcache.backbones.vit import SHORT_NAMES
from featcache.errors import UnknownNameError, WeightsError
from featcache.testing import backbones as suite

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


@pytest.fixture
def registry(monkeypatch):
    """A registry to write into."""
    monkeypatch.setattr(base, "_ENTRIES", dict(base._ENTRIES))
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))


def test_what_is_registered():
    names = [entry.name for entry in backbone_entries()]
    assert {"clip-b16", "clip-b32", "clip-l14", "i3d", "open_clip/<arch>:<tag>", "timm/<name>", *SHORT_NAMES} <= {
        *names
    }
    assert len(set(names)) == len(names)
    assert all(entry.summary for entry in backbone_entries())


def test_every_registered_name_is_in_the_documentation():
    page = PAGE.read_text(encoding="utf-8")
    for entry in backbone_entries():
        assert f"| `{entry.name}` |" in page


def test_the_example_of_the_documentation(registry, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATCACHE_WEIGHTS", str(tmp_path))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    assert "patches" in suite.registered_examples()
    subject = suite.make_subject("patches")
    for check in suite.CHECKS:
        check(subject)
    with pytest.raises(WeightsError, match=r"put patches\.safetensors into "):
        build_backbone("patches")


def test_a_name_is_taken_once(registry):
    card = base.WeightsCard(source="s", license="l")
    with pytest.raises(ValueError, match="'i3d' is registered already"):
        base.register_backbone("i3d", summary="", card=card)(lambda *_: None)
    with pytest.raises(ValueError, match="'timm/' is registered already"):
        base.register_family("timm/", pattern="", summary="", example="")(lambda *_: None)


@pytest.mark.parametrize(
    ("name", "guess"),
    [("clip-l41", "clip-l14"), ("I3D", "i3d"), ("clip_b32", "clip-b32"), ("dinov2-m14", "dinov2-s14")],
)
def test_did_you_mean(name, guess):
    with pytest.raises(UnknownNameError, match=rf"unknown backbone '{name}'; did you mean '{guess}'\?"):
        build_backbone(name)
