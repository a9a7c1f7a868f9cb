"""A merged store goes on like the one that it was made from: it is complete, it grows, and keeps its draws."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.extract.amending import remove
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.store.copying import merge
from featcache.store.settings import MergeSettings
from featcache.store.verify import verify
from tests.extract.conftest import LITE0, Make
from tests.store.histories import assert_same, assert_same_places

SMALL = FeatureSettings(name="small", backbone=LITE0, weights="random", input_size=64, channels=80)


@pytest.fixture
def grown(make: Make, listing: Path, tmp_path: Path) -> ExtractSettings:
    """A store of three generations, with videos that were renamed since, one that fails and one that was removed."""
    folder, files = tmp_path / "videos", sorted(listing.parent.rglob("*.mp4"))
    sampling = SamplingSettings(num_clips=1, num_frames=1, spatial="random_resized")
    settings = make(source=str(folder), sampling=sampling)
    for number in range(2):
        (folder / "wave").mkdir(parents=True, exist_ok=True)
        shutil.copy(files[number], folder / "wave" / f"{number}.mp4")
        if number == 1:
            (folder / "wave" / "broken.mp4").write_bytes(b"no video")
        extract(settings)
    (folder / "wave").rename(folder / "greet")
    shutil.copy(files[2], folder / "greet" / "2.mp4")
    extract(settings)
    remove(settings.out, ["greet/2.mp4"])
    return settings


@pytest.mark.slow
def test_it_goes_on(grown: ExtractSettings, tmp_path: Path) -> None:
    merged = grown.model_copy(update={"out": str(tmp_path / "merged")})
    merge(MergeSettings(stores=(grown.out,), out=merged.out))
    assert_same(Path(grown.out), Path(merged.out))
    store = featcache.open(merged.out)
    assert (len(store.generations), set(store.videos)) == (1, {"greet/0.mp4", "greet/1.mp4", "greet/broken.mp4"})
    # nothing to do, although the removed video is in the source, and everything has another name than its draws
    assert extract(merged).rows_written == 0
    assert len(featcache.open(merged.out).generations) == 1
    # another feature has the draws of the first, since they follow from the names as planned
    for settings in (grown, merged):
        extract(settings.model_copy(update={"features": (*settings.features, SMALL)}))
    with (
        featcache.open(grown.out).feature("small") as one,
        featcache.open(merged.out).feature("small") as two,
        featcache.open(merged.out).feature(grown.features[0].name or "pooled") as first,
    ):
        assert one.video_ids == two.video_ids
        assert_same_places(one.rows, two.rows)
        assert_same_places(first.rows, two.rows)
        assert np.allclose(one[:].astype(np.float32), two[:].astype(np.float32), atol=1e-2)
    # the removed video comes back by being computed again, and the store grows
    remove(merged.out, ["greet/2.mp4"], undo=True)
    shutil.copy(tmp_path / "videos" / "greet" / "0.mp4", tmp_path / "videos" / "greet" / "new.mp4")
    result = extract(merged)
    assert (result.videos_total, result.videos_failed) == (5, 1)
    assert verify(merged.out).ok
