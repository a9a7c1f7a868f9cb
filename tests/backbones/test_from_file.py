"""A backbone of a Python file: run where the user names the file, and nowhere else."""

import re
from pathlib import Path

import pytest
import torch

import featcache
from featcache.backbones import build_backbone, from_file
from featcache.backbones.from_file import is_of_file, name_of, use_file
from featcache.errors import ConfigError, PluginError
from tests.docs import pages

SOURCE = pages.files_of("adding-a-backbone.md")["labnets.py"]


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    """What a test makes known is known to no other."""
    monkeypatch.setattr(from_file, "_KNOWN", {})


def put(folder: Path, name: str = "net.py", source: str = SOURCE) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source)
    return f"{folder / name}:build"


def test_it_is_built_by_the_name_without_the_folder(tmp_path, monkeypatch):
    name = use_file(put(tmp_path / "one"))
    assert name == "net.py:build"
    pixels = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    first = build_backbone(name, weights="random")
    assert first.encode(pixels, ["patches"])["patches"].map.shape == (1, 4, 4, 32)
    monkeypatch.chdir(tmp_path / "one")
    assert name_of("net.py:build") == name
    assert name_of("clip-l14") == "clip-l14"
    assert build_backbone(name, weights="random").weights_hash == first.weights_hash
    joint = build_backbone(f"timm/test_resnet+{name}", weights="random")
    assert joint.layers[-1].endswith("+patches")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("net.py:build", True),
        ("/a/b c/net.py:build_2", True),
        ("open_clip/ViT-B-16:laion2b", False),
        ("clip-l14", False),
        ("net.py", False),
        ("timm/x+net.py:build", False),
    ],
)
def test_what_is_taken_for_a_file(text, is_one):
    assert is_of_file(text) is is_one


def test_a_name_alone_never_runs_a_file(tmp_path, monkeypatch):
    """Not even where the file lies in the current folder, or the name is a path: recipes and settings hold names."""
    put(tmp_path, source=f"import pathlib\npathlib.Path({str(tmp_path / 'was_run')!r}).touch()")
    monkeypatch.chdir(tmp_path)
    for name in ("net.py:build", "./net.py:build", f"{tmp_path}/net.py:build", "net.py:build+timm/test_resnet"):
        with pytest.raises(PluginError, match=r"is run only where you say where it is; start with `featcache --use"):
            build_backbone(name, weights="random")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("1 / 0", PluginError, "net.py cannot be run (ZeroDivisionError: division by zero); fix it"),
        ("import sys\nsys.exit(3)", PluginError, "net.py cannot be run (SystemExit: 3); fix it"),
        ("build = 3", PluginError, "net.py has no function 'build'; give one that it has"),
    ],
)
def test_a_broken_file_is_a_sentence(source, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        use_file(put(tmp_path, source=source))


def test_what_is_no_file_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file '.*nowhere\.py'; give its path"):
        use_file(str(tmp_path / "nowhere.py:build"))
    with pytest.raises(ConfigError, match=r"'clip-l14' names no function of a Python file; write path/to/net.py:build"):
        featcache.use_backbone("clip-l14")


def test_two_files_of_one_name_are_refused(tmp_path):
    use_file(put(tmp_path / "one"))
    with pytest.raises(ConfigError, match=r"would both be backbone 'net.py:build'; rename one of them"):
        use_file(put(tmp_path / "two"))
