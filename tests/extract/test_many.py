"""Several layers of several backbones in one pass: each video opened as often as for one, one forward a backbone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import featcache
from featcache.backbones import LayerOutput
from featcache.backbones.wrapped import WrappedBackbone
from featcache.config import to_yaml
from featcache.extract.encoder import _weights_given
from featcache.extract.run import extract
from featcache.extract.settings import FeatureSettings
from tests.extract.conftest import LITE0, Make

RESNET = "timm/test_resnet"
FEATURES = (
    FeatureSettings(backbone=LITE0, weights="random", layer="blocks.2", output="map", input_size=64),
    FeatureSettings(backbone=LITE0, weights="random", layer="blocks.4", input_size=64),
    FeatureSettings(backbone=LITE0, weights="random", input_size=64),
    FeatureSettings(backbone=RESNET, weights="random", layer="layer3", input_size=64, interpolation="bicubic"),
    FeatureSettings(backbone=f"{LITE0}+{RESNET}", weights="random", input_size=64),
)

# Read by every Python that has its folder on PYTHONPATH: the decoding processes.
SITECUSTOMIZE = """
import os
import av
original = av.open
def noted(file, *args, **kwargs):
    with open(os.environ["OPENED"], "a") as log:
        log.write(f"{file}\\n")
    return original(file, *args, **kwargs)
av.open = noted
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that a decoding process opens a video."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    log = tmp_path / "opened.txt"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("OPENED", str(log))
    return log


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Backbone and layers of each forward over a whole batch of rows; blank single images probe shapes."""
    seen: list[tuple[str, tuple[str, ...]]] = []
    encode = WrappedBackbone.encode

    def noted(self: WrappedBackbone, pixels: Tensor, layers: Sequence[str]) -> Mapping[str, LayerOutput]:
        if len(pixels) > 1:
            seen.append((self.name, tuple(sorted(layers))))
        return encode(self, pixels, layers)

    monkeypatch.setattr(WrappedBackbone, "encode", noted)
    return seen


def test_one_pass_for_all(
    make: Make, opened: Path, forwards: list[tuple[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    one = extract(make(features=FEATURES[:1], out=str(tmp_path / "one")))
    opens_of_one = Counter(opened.read_text().splitlines())
    assert len(opens_of_one) == one.videos_ok == 16
    opened.unlink()
    forwards_of_one = len(forwards)
    forwards.clear()

    extract(make(features=FEATURES))
    assert Counter(opened.read_text().splitlines()) == opens_of_one
    # One forward a batch reads the three layers; the pair is a backbone of its own.
    assert Counter(forwards) == {
        (LITE0, ("blocks.2", "blocks.4", "final")): forwards_of_one,
        (RESNET, ("layer3",)): forwards_of_one,
        (LITE0, ("final",)): forwards_of_one,
        (RESNET, ("final",)): forwards_of_one,
    }

    store = featcache.open(tmp_path / "store")
    names = {
        "timm-tf_efficientnet_lite0-blocks.2-map": (2, 8, 8, 40),
        "timm-tf_efficientnet_lite0-blocks.4-mean": (112,),
        "timm-tf_efficientnet_lite0-final-mean": (1280,),
        "timm-test_resnet-layer3-mean": (192,),
        "timm-tf_efficientnet_lite0-timm-test_resnet-final-final-mean": (1280 + 96,),
    }
    shapes = {name: store.feature(name).video(next(iter(store.videos))).shape[1:] for name in store.features}
    assert shapes == names
    alone = featcache.open(tmp_path / "one").feature("timm-tf_efficientnet_lite0-blocks.2-map")
    for video in store.videos:
        together = store.feature("timm-tf_efficientnet_lite0-blocks.2-map").video(video)
        np.testing.assert_array_equal(together, alone.video(video))
        pair = store.feature("timm-tf_efficientnet_lite0-timm-test_resnet-final-final-mean").video(video)
        np.testing.assert_array_equal(
            pair[:, :1280], store.feature("timm-tf_efficientnet_lite0-final-mean").video(video)
        )


def test_weights_of_joined_backbones_are_remembered(make: Make, tmp_path: Path) -> None:
    """What the last extraction was given, unless one of its files is gone."""
    there, folder = tmp_path / "there.pth", tmp_path / "store" / "config"
    folder.mkdir(parents=True)
    there.touch()
    for index, weights in enumerate(("default", f"random+{there}", f"{tmp_path / 'gone.pth'}+{there}")):
        feature = FeatureSettings(name="pair", backbone=f"{LITE0}+{RESNET}", weights=weights)
        (folder / f"extract-{index}.yaml").write_text(to_yaml(make(features=(feature,))))
    assert _weights_given(tmp_path / "store") == {"pair": f"random+{there}"}
