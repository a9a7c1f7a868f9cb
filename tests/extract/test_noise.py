"""Noise as part of a store's recipe: for every backbone, whatever the workers, and again by the encoder."""

from pathlib import Path

import pytest

import featcache
from featcache.config import apply_overrides, parse, to_dict
from featcache.errors import RecipeMismatchError
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings
from featcache.recipes import recipe_hash
from featcache.store.info import StoreInfo
from tests.extract.conftest import LITE0, Make

DEEP = FeatureSettings(name="deep", backbone=LITE0, weights="random", input_size=48, layer="blocks.4")


def noisy(settings: ExtractSettings, value: str) -> ExtractSettings:
    """As on the command line: ``--set sampling.noise=…``."""
    return parse(ExtractSettings, apply_overrides(to_dict(settings), [f"sampling.noise={value}"]))


@pytest.mark.parametrize(
    ("num_workers", "value"),
    [(2, "{kind: gaussian, severity: 3}"), (1, "{kind: shot, severity: 5, table: imagenet-c, place: crop, seed: 2}")],
)
def test_noise_belongs_to_the_recipe_of_all_features(
    make: Make, extracted: Path, listing: Path, num_workers: int, value: str
) -> None:
    pooled = make().features
    runtime = RuntimeSettings(device="cpu", threads=1, encode_batch=3, decode_workers=num_workers)
    settings = noisy(make(features=(*pooled, DEEP), runtime=runtime), value)
    recipe = settings.sampling.noise
    assert recipe is not None
    assert recipe.kind in value
    extract(settings)
    store, clean = featcache.open(settings.out), featcache.open(extracted)
    assert store.sampling.noise == recipe
    assert clean.sampling.noise is None
    assert recipe_hash(store.sampling) != recipe_hash(clean.sampling)
    assert f"kind: {recipe.kind}" in next((Path(settings.out) / "config").glob("extract-*.yaml")).read_text()
    changed = store.feature("pooled")[...] != clean.feature("pooled")[...]
    assert changed.any(axis=1).all(), "every row is of noisy frames"

    table = next(each for each in StoreInfo(facts=store.info()).summary().tables if each.title == "sampling")
    assert f"'severity': {recipe.severity}" in str(dict(table.rows)["noise"])

    for other in ("{kind: gaussian, severity: 4}", "null"):
        with pytest.raises(RecipeMismatchError, match=rf"noise \(NoiseRecipe\(kind='{recipe.kind}', severity="):
            extract(noisy(settings, other))

    encode = featcache.encoder(settings.out, device="cpu")  # in this process, whatever the number of workers was
    for video in store.videos.values():
        encoded = encode(listing.parent / video.path, video_id=video.id)
        for name in ("pooled", "deep"):
            assert encoded.features[name].tobytes() == store.feature(name).video(video.id).tobytes()
