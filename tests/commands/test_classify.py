"""Fine-tuned models saved whole: scored as the run scored, built as backbones, and asked about files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from featcache.backbones import build_backbone
from featcache.backbones.classifier_file import find_classifier, is_classifier, read_facts
from featcache.commands import shorthand
from featcache.commands.classify import ClassifySettings, classify
from featcache.commands.registry import load
from featcache.commands.run import carry_out
from featcache.config import parse
from featcache.data.manifest import read_parquet
from featcache.data.parquet import read_table
from featcache.data.transforms import normalise
from featcache.errors import ConfigError, FeatcacheError, NothingUsableError, WeightsError
from featcache.methods.finetune.classifying import fine_tuned
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneTestSettings
from tests.methods.finetune.helpers import settings, training, write_classes


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of two classes, of which one test video passes the scan and does not decode."""
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 3, "test": 3}, damaged=("test-red-1.mp4",))


def asked(manifest, split):
    return [str(manifest.parent / video.path) for video in read_parquet(manifest).videos if video.split == split]


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A run of two seeds, tested on two clips and two crops."""
    folder = tmp_path_factory.mktemp("run")
    views = FinetuneTestSettings(num_clips=2, num_crops=2)
    finetune(settings(videos, folder, test=views, training=training(seeds=(0, 1), keep_epochs=(1, 2))))
    return folder


@pytest.fixture(scope="module")
def linear(videos, tmp_path_factory):
    """The head alone, on the frames of an image network, with averaged logits."""
    folder = tmp_path_factory.mktemp("linear")
    views = FinetuneTestSettings(num_clips=3, num_crops=1, average="logits")
    result = finetune(
        settings(videos, folder, backbone="timm/test_vit", input_size=None, frozen=True, head_dropout=0.0, test=views)
    )
    assert result.weights == {}
    assert result.next_command == f"featcache classify FILE --model {folder}/seed-0"
    return folder


def by_run(folder, seed):
    """Scores float32 [C] of each test video in the run's own table."""
    table = read_table(folder / "predictions.parquet").to_pylist()
    return {row["video"]: np.array(row["scores"], np.float32) for row in table if row["seed"] == seed}


def probabilities(video, classes):
    found = dict(zip(video.classes, video.probabilities, strict=True))
    return np.array([found[name] for name in classes])


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_the_run_to_the_bit(videos, run, seed):
    found = classify(
        ClassifySettings(files=tuple(asked(videos, "test")), model=str(run), seed=seed, workers=0, device="cpu")
    )
    theirs = by_run(run, seed)
    assert (found.num_classes, found.num_views, len(found.videos)) == (2, 4, len(theirs)) == (2, 4, 5)
    for video in found.videos:
        mine = probabilities(video, ("blue", "red"))
        assert np.array_equal(mine.astype(np.float32), theirs[video.file.rpartition("/")[2]])
        assert list(video.probabilities) == sorted(video.probabilities, reverse=True)
        assert mine.sum() == pytest.approx(1)
    assert {file.rpartition("/")[2]: status for file, status, _ in found.failed} == {
        "test-red-1.mp4": "undecodable",
        "broken.mp4": "missing",
    }
    other = by_run(run, 1 - seed)
    assert any(not np.array_equal(theirs[name], other[name]) for name in theirs)


def test_a_linear_run_on_frames_with_averaged_logits(videos, linear):
    found = classify(ClassifySettings(files=tuple(asked(videos, "test")), model=str(linear), workers=0, device="cpu"))
    theirs = by_run(linear, 0)
    assert found.num_views == 3
    for video in found.videos:
        logits = torch.from_numpy(theirs[video.file.rpartition("/")[2]])
        np.testing.assert_allclose(probabilities(video, ("blue", "red")), logits.double().softmax(0), rtol=1e-6)


def test_folders_and_listings_are_the_same_as_files(videos, run, tmp_path):
    folder = tmp_path / "few"
    (folder / "deep").mkdir(parents=True)
    for name, place in (("test-red-0.mp4", "a.mp4"), ("test-blue-0.mp4", "deep/b.mp4")):
        shutil.copy(videos.parent / name, folder / place)
    (folder / "some.csv").write_text("path\ndeep/b.mp4\na.mp4\n")
    ask = {"model": str(run / "seed-1"), "top": 1, "num_clips": 1, "workers": 0, "device": "cpu"}
    whole = classify(ClassifySettings(files=(str(folder),), **ask))
    assert [video.file for video in whole.videos] == [f"{folder}/a.mp4", f"{folder}/deep/b.mp4"]
    assert whole.num_views == 2
    listed = classify(ClassifySettings(files=(f"{folder}/some.csv", f"{folder}/a.mp4"), **ask))
    assert listed.videos == whole.videos
    assert all(len(video.classes) == 1 for video in whole.videos)
    assert json.loads(json.dumps(whole.to_dict()))["videos"][0]["classes"] == list(whole.videos[0].classes)
    table = whole.summary().tables[0]
    assert [row[0] for row in table.rows] == [f"{folder}/a.mp4", f"{folder}/deep/b.mp4"]


def test_progress_and_nothing_usable(videos, run, tmp_path):
    stages = []
    broken = tmp_path / "notes.mp4"
    broken.write_text("no video")
    ask = ClassifySettings(files=(str(broken), "gone.mp4"), model=str(run / "seed-0"), workers=0, device="cpu")
    said = carry_out(ask)
    shown = next(said).summary()
    assert [row[:2] for row in shown.tables[0].rows] == [(str(broken), "undecodable"), ("gone.mp4", "missing")]
    assert shown.facts["classified"] == "0 of 2 videos"
    with pytest.raises(NothingUsableError, match="none of 2 videos can be classified"):
        next(said)
    one = ask.model_copy(update={"files": (str(videos.parent / "test-red-0.mp4"),)})
    classify(one, on_stage=lambda stage, done, total, note="", num_failed=0: stages.append((stage, done, total)))
    assert stages == [("scan", 1, 1), ("classify", 1, 1)]


def test_the_file_is_a_weights_file_of_its_backbone_with_a_classifier(run):
    path = str(run / "seed-0/classifier.safetensors")
    whole, plain = (
        build_backbone("svt-tiny", weights=each) for each in (path, str(run / "seed-0/backbone.safetensors"))
    )
    pixels = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        mine, theirs = (each.encode(pixels, each.layers[-1:])[each.layers[-1]] for each in (whole, plain))
        assert torch.equal(mine.cls, theirs.cls)
        head = load_file(path)
        logits = torch.nn.functional.linear(mine.cls.float(), head["head.weight"], head["head.bias"])
    assert torch.equal(whole.classify(pixels), logits)
    assert (whole.classes, plain.classes) == (("blue", "red"), None)
    other = build_backbone("svt-tiny", weights=str(run / "seed-1/classifier.safetensors"))
    assert len({whole.weights_hash, plain.weights_hash, other.weights_hash}) == 3
    assert build_backbone("svt-tiny", weights=path).weights_hash == whole.weights_hash
    kept = build_backbone("svt-tiny", weights=str(run / "seed-0/epoch-002.safetensors"))
    assert kept.weights_hash == plain.weights_hash
    assert (
        build_backbone("svt-tiny", weights=str(run / "seed-0/epoch-001.safetensors")).weights_hash != kept.weights_hash
    )


@pytest.mark.parametrize("fixture", ["run", "linear"])
def test_the_backbone_classifies_as_the_module_does(fixture, request):
    path = find_classifier(request.getfixturevalue(fixture), seed=0)
    ready, backbone = (
        fine_tuned(path, device=torch.device("cpu")),
        build_backbone(read_facts(path).backbone, weights=str(path)),
    )
    size, recipe = ready.crop.size, ready.module.recipe
    clips = torch.randint(0, 256, (3, 2, 3, size, size), dtype=torch.uint8)
    pixels = normalise(clips, mean=recipe.mean, std=recipe.std)
    with torch.no_grad():
        expected = ready.module(clips)
    if backbone.kind == "video":
        assert torch.equal(backbone.classify(pixels), expected)
    else:  # the logits of frames, averaged
        logits = backbone.classify(pixels.flatten(0, 1)).unflatten(0, (3, 2)).mean(1)
        torch.testing.assert_close(logits, expected)


def test_a_run_stands_for_its_backbone_and_weights(run, linear):
    def lay(data):
        return dict(data)

    path = f"{run}/seed-1/classifier.safetensors"
    assert shorthand.network_of(f"{run}/seed-1") == {"backbone": "svt-tiny", "weights": path}
    assert shorthand.network_of(path) == {"backbone": "svt-tiny", "weights": path}
    assert shorthand.network_of("svt-tiny", "random") == {"backbone": "svt-tiny", "weights": "random"}
    made = shorthand.extract({}, {"backbone": [str(linear), "i3d"], "output": "mean"}, lay)
    file = f"{linear}/seed-0/classifier.safetensors"
    assert made["features"] == [
        {"backbone": "timm/test_vit", "weights": file, "output": "mean"},
        {"backbone": "i3d", "output": "mean"},
    ]
    made = shorthand.extract({}, {"feature": [f"backbone={path},output=cls"]}, lay)
    assert made["features"] == [{"backbone": "svt-tiny", "weights": path, "output": "cls"}]
    assert shorthand.network({}, {"backbone": path}, lay) == {"backbone": "svt-tiny", "weights": path}
    with pytest.raises(ConfigError, match=r"--weights random is given beside the run .*, which has its own"):
        shorthand.network_of(path, "random")


def test_a_model_that_was_moved_is_complete(videos, run, tmp_path):
    shutil.copy(run / "seed-0/classifier.safetensors", tmp_path / "mine.safetensors")
    ask = ClassifySettings(
        files=(str(videos.parent / "test-blue-2.mp4"),),
        model=str(tmp_path / "mine.safetensors"),
        workers=0,
        device="cpu",
    )
    there = classify(ask.model_copy(update={"model": str(run / "seed-0")}))
    assert classify(ask).videos == there.videos


def test_another_number_of_views_writes_the_file_anew(videos, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    again = load(tmp_path / "run/config.yaml", assignments=["test.num_clips=3", f"out={tmp_path}/run"])
    finetune(again, on_stage=lambda stage, *figures, **named: stage.startswith("seed") and pytest.fail("trained"))
    facts = read_facts(tmp_path / "run/seed-1/classifier.safetensors")
    assert (facts.views.num_clips, facts.views.num_crops, facts.classes) == (3, 2, ("blue", "red"))


def test_a_backbone_with_a_classifier_of_its_own(videos, monkeypatch):
    ask = ClassifySettings(
        files=(str(videos.parent / "test-red-0.mp4"),), model="timm/test_vit", weights="random", workers=0, device="cpu"
    )
    found = classify(ask)
    assert (found.model, found.num_classes, found.num_views) == ("timm/test_vit", 1000, 4)
    (video,) = found.videos
    assert len(video.classes) == 5
    assert 0 < sum(video.probabilities) < 1


def test_what_cannot_be_asked_is_a_sentence(videos, run, linear, tmp_path):
    ask = {"files": (str(videos.parent / "test-red-0.mp4"),), "workers": 0, "device": "cpu"}

    def said(**given):
        with pytest.raises(FeatcacheError) as error:
            classify(parse(ClassifySettings, {**ask, **given}))
        return str(error.value)

    assert "has several: it has seed-0, seed-1; name one, e.g." in said(model=str(run))
    assert "has no seed-7: it has seed-0, seed-1" in said(model=str(run), seed=7)
    assert "is of seed 0, not 1; leave the seed out" in said(model=str(run / "seed-0"), seed=1)
    assert "holds no classifier.safetensors; give the folder of a `featcache train finetune`" in said(
        model=str(tmp_path)
    )
    assert "there is no run 'runs/gone', and no such backbone either" in said(model="runs/gone")
    assert "no classifier of its own; fine-tune it" in said(model="svt-tiny", weights="random")
    assert "--seed is for a run, and svt-tiny is a backbone" in said(model="svt-tiny", seed=0)
    assert "--weights is for a backbone" in said(model=str(linear), weights="random")
    assert "is a fine-tuned svt-tiny, not svt-s; give --backbone svt-tiny" in _message(
        lambda: build_backbone("svt-s", weights=str(run / "seed-0/classifier.safetensors"))
    )
    assert "did you mean 'i3d'?" in said(model="i3dd")


def test_a_damaged_classifier_is_a_sentence(run, tmp_path):
    path = run / "seed-0/classifier.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["featcache"])

    def written(tensors, **changes):
        mine = tmp_path / "mine.safetensors"
        about = {**facts, "model": {**facts["model"], **changes}}
        save_file(tensors, mine, metadata={"featcache": json.dumps(about | {"version": changes.get("version", 1)})})
        return mine

    assert is_classifier(written(tensors))
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("head")}
    for broken, sentence in (
        (lambda: written(headless), "the head of .* cannot be read"),
        (lambda: written(tensors, classes=["one"]), "2 outputs for 1 classes"),
        (lambda: written(tensors, feature=[]), "metadata of .* is damaged"),
        (lambda: written(tensors, average="median"), r"metadata of .* is damaged \(average: Input should be 'softmax'"),
        (lambda: written(tensors, clips_at_once=0), "metadata of .* is damaged"),
        (lambda: written(tensors, version=2), "written by a newer featcache"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            build_backbone("svt-tiny", weights=str(broken()))
    with pytest.raises(WeightsError, match="no fine-tuned classifier"):
        read_facts(run / "seed-0/backbone.safetensors")
    path = written(tensors)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        build_backbone("svt-tiny", weights=str(path))


def _message(act):
    with pytest.raises(FeatcacheError) as error:
        act()
    return str(error.value)
