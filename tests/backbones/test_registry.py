"""The registry: what is listed, what a list imports, and which names are told apart."""

import subprocess
import sys
from pathlib import Path

import pytest

from featcache.backbones import BACKBONES, build_backbone
from featcache.backbones.registry import card_of
from featcache.backbones.vit import SHORT_NAMES
from featcache.errors import UnknownNameError
from featcache.plugins import BUILT_IN

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
PLACES = [place for place in BACKBONES.places() if place.origin == BUILT_IN]


def test_what_is_registered():
    names = [place.title for place in PLACES]
    assert {"clip-b16", "clip-b32", "clip-l14", "i3d", "open_clip/<arch>:<tag>", "timm/<name>", *SHORT_NAMES} <= {
        *names
    }
    assert len(set(names)) == len(names)
    assert all(place.summary for place in PLACES)


def test_every_registered_name_is_in_the_documentation():
    page = PAGE.read_text(encoding="utf-8")
    for place in PLACES:
        assert f"| `{place.title}` |" in page


def test_every_name_has_a_card_and_families_have_none():
    cards = {place.name: card_of(place) for place in PLACES}
    assert [name for name, card in cards.items() if card is None] == ["+", "open_clip/", "timm/"]


def test_a_list_with_cards_and_a_misspelt_name_import_no_network():
    code = """
import sys
from featcache.backbones import BACKBONES, build_backbone
from featcache.backbones.registry import card_of
assert len([card_of(place) for place in BACKBONES.places()]) > 40
try:
    build_backbone("clip-l41")
except KeyError as error:
    assert "did you mean 'clip-l14'?" in str(error)
print([name for name in ("torch", "timm", "torchvision", "open_clip", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "guess"),
    [("clip-l41", "clip-l14"), ("I3D", "i3d"), ("clip_b32", "clip-b32"), ("dinov2-m14", "dinov2-s14")],
)
def test_did_you_mean(name, guess):
    with pytest.raises(UnknownNameError, match=rf"unknown backbone '{name}'; did you mean '{guess}'\?"):
        build_backbone(name)
