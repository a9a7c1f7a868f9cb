"""A few real clips and a quick backbone for the tests of extraction."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.data.manifest import write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings

LITE0 = "timm/tf_efficientnet_lite0"
Make = Callable[..., ExtractSettings]


@pytest.fixture(scope="session")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and eight test clips of one photograph, 8 frames of 64 x 64."""
    settings = MotionSettings(
        size=64, num_unseen_pictures=21, train_per_picture_motion=1, test_unseen_per_picture_motion=0
    )
    return make_motion_set(tmp_path_factory.mktemp("motion"), settings)


@pytest.fixture(scope="session")
def scanned(listing: Path) -> Path:
    """The manifest of the clips, so that each test need not scan them."""
    path = listing.with_name("videos.parquet")
    write_parquet(scan(listing), path)
    return path


def settings_of(source: Path | str, out: Path | str, **changes: object) -> ExtractSettings:
    """Settings of a small extraction; keyword arguments replace whole sections."""
    base: dict[str, object] = {
        "source": str(source),
        "out": str(out),
        "features": (FeatureSettings(name="pooled", backbone=LITE0, weights="random", input_size=64),),
        "sampling": SamplingSettings(num_clips=2, num_frames=2),
        "runtime": RuntimeSettings(device="cpu", threads=1, encode_batch=3),
        "shard_rows": 8,
    }
    return ExtractSettings.model_validate({**base, **changes})


@pytest.fixture
def make(scanned: Path, tmp_path: Path) -> Make:
    """Makes the settings of a small extraction, by default into the folder of the test."""

    def build(*, source: str = str(scanned), out: str = str(tmp_path / "store"), **changes: object) -> ExtractSettings:
        return settings_of(source, out, **changes)

    return build


@pytest.fixture(scope="session")
def extracted(scanned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of such an extraction, which tests read; to change it, they take ``filled``."""
    out = tmp_path_factory.mktemp("extracted") / "store"
    extract(settings_of(scanned, out))
    return out


@pytest.fixture
def filled(make: Make, extracted: Path) -> ExtractSettings:
    """The settings of such an extraction, and a store of the test's own, in which it has been carried out."""
    settings = make()
    shutil.copytree(extracted, settings.out)
    return settings
