"""A few real clips and a quick backbone for the tests of extraction."""

from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.data.manifest import write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
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


@pytest.fixture
def make(scanned: Path, tmp_path: Path) -> Make:
    """Settings of a small extraction; keyword arguments replace whole sections."""

    def build(**changes: object) -> ExtractSettings:
        base: dict[str, object] = {
            "source": str(scanned),
            "out": str(tmp_path / "store"),
            "features": (FeatureSettings(name="pooled", backbone=LITE0, weights="random", input_size=64),),
            "sampling": SamplingSettings(num_clips=2, num_frames=2),
            "runtime": RuntimeSettings(device="cpu", threads=1, encode_batch=3),
            "shard_rows": 8,
        }
        return ExtractSettings.model_validate({**base, **changes})

    return build
