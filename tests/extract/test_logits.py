"""Logits as an array of a store: those of the backbone's classifier, with the names of their classes."""

import numpy as np
import pytest
import torch

from featcache.backbones import build_backbone
from featcache.data.transforms import normalise
from featcache.errors import ConfigError
from featcache.exchange.exporting import export
from featcache.exchange.importing import import_features
from featcache.exchange.settings import ExportSettings, ImportSettings
from featcache.extract.encoder import encoder
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.methods.finetune.run import finetune
from featcache.recipes import FeatureRecipe, recipe_hash
from featcache.store.reader import open_store
from tests.methods.finetune.helpers import settings, training, write_classes

STATISTICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 2, "test": 2})


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finetune(settings(videos, folder, training=training(epochs=1), **STATISTICS))
    return folder / "seed-0/classifier.safetensors"


def extraction(videos, out, *features, **sampling):
    return ExtractSettings(
        source=str(videos),
        out=str(out),
        features=features,
        sampling=SamplingSettings(**sampling),
        runtime=RuntimeSettings(device="cpu", threads=1),
    )


def test_a_run_is_shown_clips_as_in_its_test(videos, run, tmp_path):
    logits = FeatureSettings(backbone="svt-tiny", weights=str(run), output="logits", precision="float32", name="own")
    vectors = FeatureSettings(backbone="svt-tiny", weights=str(run), output="cls", input_size=32)
    settings = extraction(videos, tmp_path / "store", logits, vectors)
    extract(settings)
    extract(settings)  # a second time it finds the same recipe
    store = open_store(tmp_path / "store")
    sampling = store.sampling
    assert (sampling.temporal, sampling.num_frames, sampling.num_clips) == ("spread", 2, 4)
    assert sampling.crop_fraction == 1.0
    own = store.feature("own")
    assert own.recipe.classes == ("blue", "red")
    assert (own.recipe.layer, own.recipe.input_size, own.recipe.mean) == ("classifier", 32, STATISTICS["mean"])
    assert (own.record.shape, own.record.axes, own.record.dtype) == ((2,), ("c",), "float32")
    assert store.info()["features"]["own"]["classes"] == ["blue", "red"]
    again = encoder(tmp_path / "store", device="cpu")(videos.parent / "test-red-1.mp4", video_id="test-red-1.mp4")
    np.testing.assert_array_equal(again.features["own"], own.video("test-red-1.mp4"))
    backbone = build_backbone("svt-tiny", weights=str(run))
    with torch.inference_mode():
        blank = normalise(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8), **STATISTICS)
        assert backbone.classify(blank).shape == (1, 2)


def test_the_numbers_are_those_of_classify(videos, run, tmp_path):
    """One clip and three crops are the views of the run's test: their mean is what its table of predictions says."""
    logits = FeatureSettings(backbone="svt-tiny", weights=str(run), output="logits", precision="float32")
    extract(extraction(videos, tmp_path / "store", logits, num_clips=1, num_crops=1, spatial="views"))
    features = open_store(tmp_path / "store").feature()
    from featcache.commands.classify import ClassifySettings, classify

    asked = ClassifySettings(files=(str(videos.parent / "test-red-1.mp4"),), model=str(run), workers=0, device="cpu")
    (said,) = classify(asked).videos
    mine = torch.from_numpy(features.video("test-red-1.mp4").copy()).softmax(dim=1)[0].tolist()
    named = dict(zip(features.recipe.classes, mine, strict=True))
    assert dict(zip(said.classes, said.probabilities, strict=True)) == pytest.approx(named, rel=1e-5)


def test_an_image_model_says_one_thing_of_a_clip(videos, tmp_path):
    whole = FeatureSettings(backbone="timm/test_vit", weights="random", output="logits", input_size=160)
    frames = whole.model_copy(update={"average_frames": False, "name": "frames"})
    extract(extraction(videos, tmp_path / "store", whole, frames, num_clips=1, num_frames=3))
    store = open_store(tmp_path / "store")
    clip, single = store.feature("timm-test_vit-classifier-logits"), store.feature("frames")
    assert (clip.record.shape, single.record.shape) == ((1000,), (3, 1000))
    assert clip.dtype == np.float16
    np.testing.assert_array_equal(clip[0], single[0].astype(np.float64).mean(axis=0).astype(np.float16))


def test_what_has_no_classifier_is_a_sentence(videos, run, tmp_path):
    none = FeatureSettings(backbone="svt-tiny", weights="random", output="logits")
    with pytest.raises(ConfigError, match=r"svt-tiny has no classifier.*give the folder of that run"):
        extract(extraction(videos, tmp_path / "store", none))
    layer = FeatureSettings(backbone="svt-tiny", weights=str(run), output="logits", layer="blocks.0")
    with pytest.raises(ConfigError, match=r"of its whole network, not of 'blocks.0'"):
        extract(extraction(videos, tmp_path / "store", layer))
    with pytest.raises(ConfigError, match="would average logits of other classes"):
        FeatureRecipe(backbone="a", weights_hash="b", layer="classifier", output="logits", channels=2)
    with pytest.raises(ConfigError, match="they are the names of logits"):
        FeatureRecipe(backbone="a", weights_hash="b", layer="c", classes=("d",))


def test_names_are_part_of_the_recipe_and_of_no_other():
    plain = FeatureRecipe(backbone="clip-b16", weights_hash="sha256:0", layer="norm", output="map")
    assert recipe_hash(plain) == "3a5b42304295a1b0"  # as before there were logits
    one, other = (
        FeatureRecipe(backbone="i3d", weights_hash="sha256:0", layer="classifier", output="logits", classes=names)
        for names in (("a", "b"), ("b", "a"))
    )
    assert recipe_hash(one) != recipe_hash(other)


def test_names_survive_an_export_and_an_import(videos, run, tmp_path):
    words = {"backbone": [str(run)], "output": "logits", "name": "rot"}
    from featcache.commands.shorthand import extract as shorthand

    made = shorthand({}, words, lambda data: data)
    assert made["features"] == [
        {"backbone": "svt-tiny", "weights": str(run), "output": "logits", "name": "rot"},
    ]
    extract(extraction(videos, tmp_path / "store", FeatureSettings(**made["features"][0])))
    export(ExportSettings(store=str(tmp_path / "store"), format="npy", out=str(tmp_path / "arrays")))
    from featcache.commands.shorthand import import_

    data = import_({}, {}, lambda data: {"source": str(tmp_path / "arrays"), "format": "npy", **data})
    import_features(ImportSettings.model_validate({**data, "out": str(tmp_path / "copy")}))
    mine, theirs = (open_store(tmp_path / name).feature() for name in ("store", "copy"))
    assert mine.recipe == theirs.recipe
    np.testing.assert_array_equal(mine[...], theirs[...])
