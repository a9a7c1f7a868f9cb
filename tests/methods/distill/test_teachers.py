"""Teachers of every kind: stored and live ones agree, classes in any order, and what is wrong in a sentence."""

import dataclasses

import numpy as np
import pytest
import torch

from featcache.backbones import build_backbone
from featcache.data.decoding.clips import CropSize
from featcache.data.manifest import read_parquet
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.methods.distill.run import distill
from featcache.methods.distill.teachers import check_permuted, read_teachers
from featcache.methods.finetune.module import VideoClassifier
from featcache.methods.finetune.run import finetune
from featcache.training.logs import read_log
from tests.methods.distill.helpers import WHOLE, settings
from tests.methods.finetune.helpers import settings as finetune_settings
from tests.methods.finetune.helpers import training, write_classes

CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 3, "test": 2})


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A fine-tuned teacher, which sees 48 pixels where the students see 32."""
    folder = tmp_path_factory.mktemp("teacher")
    finetune(finetune_settings(videos, folder, input_size=48, clips=WHOLE, training=training(epochs=1, seeds=(3,))))
    return folder


@pytest.fixture(scope="module")
def store(videos, run, tmp_path_factory):
    """Its logits of the clips that students see, and something else."""
    out = tmp_path_factory.mktemp("stored") / "store"
    weights = str(run / "seed-3/classifier.safetensors")
    extract(
        ExtractSettings(
            source=str(videos),
            out=str(out),
            features=(
                FeatureSettings(
                    backbone="svt-tiny", weights=weights, output="logits", name="said", precision="float32"
                ),
                FeatureSettings(backbone="svt-tiny", weights=weights, output="cls", input_size=32, name="seen"),
            ),
            sampling=SamplingSettings(
                num_clips=1, temporal="uniform", frame_stride=20, short_videos="clamp", crop_fraction=1.0
            ),
            runtime=RuntimeSettings(device="cpu", threads=1),
        )
    )
    return out


def trained(videos):
    return [video for video in read_parquet(videos).videos if video.split == "train"]


def read(names, manifest, **changes):
    about = {"classes": CLASSES, "videos": trained(manifest), "num_frames": 2, "prompt": "{}"}
    return read_teachers(names, device=torch.device("cpu"), **{**about, **changes})


def saved(path, videos, *, classes=CLASSES, key=0, **changes):
    """An ``.npz`` of random logits."""
    logits = np.random.default_rng(key).normal(size=(len(videos), len(classes))).astype(np.float32)
    arrays = {"ids": np.array([each.id for each in videos]), "logits": logits, "classes": np.array(classes)}
    np.savez(path, **{**arrays, **changes})
    return str(path)


def losses(folder):
    return [line["loss"] for line in read_log(folder / "seed-0")]


def test_stored_teachers_teach_as_live_ones_and_run_no_network(videos, run, store, tmp_path, monkeypatch):
    forwards = []
    forward = VideoClassifier.forward

    def counted(self, clips):
        if torch.is_grad_enabled() or self._is_frozen:  # not the test of the students
            forwards.append(self._is_frozen)
        return forward(self, clips)

    monkeypatch.setattr(VideoClassifier, "forward", counted)
    live = distill(settings(videos, tmp_path / "live", teachers=(str(run),)))
    num_steps = 2 * (6 // 3)
    assert forwards == [True] + [True, False] * num_steps  # a blank clip first
    forwards.clear()
    stored = distill(settings(videos, tmp_path / "stored", teachers=(f"{store}#said",)))
    assert forwards == [False] * num_steps
    np.testing.assert_allclose(losses(tmp_path / "stored"), losses(tmp_path / "live"), rtol=1e-5)
    for split, part in live.students["svt-tiny"].splits.items():
        assert stored.students["svt-tiny"].splits[split].metrics == part.metrics
    assert losses(tmp_path / "stored")[-1] > 0


def test_what_stored_and_live_teachers_say(videos, run, store):
    both = read((f"{store}#said", str(run)), videos)
    assert both.sizes == (CropSize(size=48, interpolation="bicubic"),)
    clips = torch.randint(0, 256, (2, 2, 3, 48, 48), dtype=torch.uint8)
    said = both.logits((4, 1), {both.sizes[0]: clips})
    assert (said.shape, said.requires_grad, said.is_inference()) == ((2, 2, 2), False, False)
    assert (both.each[0].macs, both.each[1].macs > 0) == (0, True)
    assert torch.equal(said[0, 0], both.each[0].logits((4,), {})[0])
    swapped = read((f"{store}#said", str(run)), videos, classes=("red", "blue"))
    assert torch.equal(swapped.logits((4, 1), {both.sizes[0]: clips}), said.flip(-1))
    assert read((f"{store}#said",), videos).content == read((f"{store}#said",), videos).content != both.content


def test_a_file_in_any_order_of_videos_and_classes(videos, tmp_path):
    train = trained(videos)
    path = saved(tmp_path / "a.npz", train)
    with np.load(path) as file:
        there = dict(file)
    backwards = saved(
        tmp_path / "b.npz",
        train,
        ids=there["ids"][::-1],
        logits=there["logits"][::-1, ::-1],
        classes=there["classes"][::-1],
    )
    first, second = read((path, backwards), videos).logits(range(len(train)), {})
    np.testing.assert_array_equal(first, there["logits"])
    assert torch.equal(first, second)


def test_permuted_teachers_say_the_same_of_other_videos(videos, run, tmp_path):
    plain = read(
        (saved(tmp_path / "a.npz", trained(videos)), saved(tmp_path / "b.npz", trained(videos), key=1)), videos
    )
    everything = range(len(trained(videos)))
    before, after, other = (each.logits(everything, {}) for each in (plain, plain.permuted(0), plain.permuted(1)))
    assert not torch.equal(before, after)
    assert not torch.equal(after, other)
    assert torch.equal(before[0].sort(dim=0).values, after[0].sort(dim=0).values)
    order = [before[0].tolist().index(row) for row in after[0].tolist()]
    assert torch.equal(before[1][order], after[1])  # the same order for all
    live = read((str(run),), videos)
    clips = {live.sizes[0]: torch.randint(0, 256, (3, 2, 3, 48, 48), dtype=torch.uint8)}
    mine, theirs = live.logits((0, 1, 2), clips)[0], live.permuted(0).logits((0, 1, 2), clips)[0]
    assert torch.equal(theirs, mine[[2, 0, 1]])
    with pytest.raises(ConfigError, match="which has no other"):
        check_permuted((str(run),), clips_at_once=1)
    check_permuted((str(tmp_path / "a.npz"), "stores/a#b"), clips_at_once=1)


def test_what_cannot_teach_is_a_sentence(videos, run, store, tmp_path):
    def said(*names, kind=ConfigError, **changes):
        with pytest.raises(FeatcacheError) as error:
            read(names, videos, **changes)
        assert isinstance(error.value, kind)
        return str(error.value)

    train = trained(videos)
    imagenet = build_backbone("timm/test_vit", weights="random").classes  # two kinds of crane
    assert "names one twice" in said("timm/test_vit=random", classes=imagenet)
    assert "lacks 'green'" in said(f"{store}#said", classes=("blue", "green", "red"))
    assert "has 'red' besides" in said(str(run), classes=("blue",))
    assert "is the output 'cls' of svt-tiny, and no logits" in said(f"{store}#seen")
    assert "did you mean 'said'" in said(f"{store}#sad", kind=UnknownNameError)
    assert read((str(store),), videos).content == read((f"{store}#said",), videos).content
    stranger = VideoRecord(id="stranger.mp4", path="stranger.mp4")
    assert "says nothing of 1 of 7 training videos, e.g. 'stranger.mp4'" in said(
        f"{store}#said", videos=[*train, stranger]
    )
    other = dataclasses.replace(train[0], content_hash="sha256:0")
    assert f"has logits of another file than the '{train[0].id}'" in said(f"{store}#said", videos=[other])
    assert "says nothing of 5 of 6" in said(saved(tmp_path / "few.npz", train[:1]))
    assert "cannot be read" in said(saved(tmp_path / "bare.npz", train).replace("bare", "gone"))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "few.npz").read_bytes()[:100])
    assert "torn.npz cannot be read" in said(str(tmp_path / "torn.npz"))
    np.savez(tmp_path / "half.npz", ids=np.array(["a"]))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    assert "one.npz cannot be read" in said(str(tmp_path / "one.npz"))
    assert "half.npz cannot be read" in said(str(tmp_path / "half.npz"))
    twice = np.array([train[0].id] * len(train))
    assert "several rows of one video" in said(saved(tmp_path / "twice.npz", train, ids=twice))
    assert "which do not fit" in said(saved(tmp_path / "narrow.npz", train, logits=np.zeros((6, 3))))
    infinite = np.full((6, 2), np.inf, np.float32)
    assert "not finite" in said(saved(tmp_path / "infinite.npz", train, logits=infinite))
    assert "is no store, file or run, and no such backbone either" in said("runs/gone", kind=UnknownNameError)
