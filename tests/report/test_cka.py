"""CKA of the layers of networks: as hooks and the formula give it, from one call, whatever the memory, after a kill."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from featcache.backbones import build_backbone
from featcache.backbones.run_file import find_run_file
from featcache.backbones.weights import write_weights
from featcache.config import parse
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan_file
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, ManifestError, RecipeMismatchError, UnknownNameError
from featcache.evaluation.cka import centred
from featcache.evaluation.cka_networks import build_networks
from featcache.evaluation.cka_settings import CkaSettings
from featcache.evaluation.cka_sums import minibatches
from featcache.loaders.videos import VideoFile
from featcache.methods.finetune.run import finetune
from featcache.report.cka import evaluate_cka
from featcache.seeding import rng_for
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import write_video
from featcache.training.generators import seeded_torch
from tests.cli.helpers import run_here, settings_of
from tests.methods.finetune.helpers import settings as of_classes
from tests.methods.finetune.helpers import training, write_classes

NAME = "r21d-tiny"
LAYERS = ("conv1.spatial_conv", "conv3.block1.downsampleconv.temporal_conv", "conv5.block1.conv2.temporal_conv")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine smooth videos to test on, of which one passes the scan and does not decode, and one to train on."""
    folder, listed = tmp_path_factory.mktemp("videos"), []
    for number in range(10):
        path, rng = f"{number}.mp4", rng_for(0, "video", number)
        blobs = torch.from_numpy(rng.uniform(0, 255, (6, 3, 4, 4)))
        pictures = functional.interpolate(blobs, (48, 64), mode="bilinear").permute(0, 2, 3, 1).numpy()
        write_video(folder / path, pictures=list(pictures.astype(np.uint8)), options={"bf": "0"})
        if number == 3:
            overwrite_pictures(folder / path, first=1, num=5)
        record = VideoRecord(id=path, path=path, split="train" if number == 9 else "test", labels={})
        *_, scanned = scan_file(record, folder / path)
        listed.append(scanned)
    write_parquet(Manifest(root=str(folder), videos=tuple(listed)), folder / "videos.parquet")
    return folder / "videos.parquet"


def write_run(folder, *, seed):
    """The folder of a run, as `train pretext` leaves it, with weights that are drawn anew."""
    network = build_backbone(NAME, weights="random").network
    with seeded_torch(seed, "weights"), torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape) * parameter.abs().mean())
    facts = {"backbone": NAME, "recipe": {"num_frames": 4, "input_size": 32}, "seed": 0}
    write_weights(folder / "seed-0" / "backbone.safetensors", network, facts=facts)
    write_weights(folder / "seed-0" / "epoch-001.safetensors", network, facts={**facts, "epoch": 1})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, seed=seed) for seed, name in enumerate(("rot", "vcop"))]


def settings(videos, out, networks, **changes):
    given = {"source": str(videos), "out": str(out), "networks": networks, "workers": 0, "device": "cpu"}
    return parse(CkaSettings, {**given, "num_frames": 4, "input_size": 32, **changes})


def of_runs(runs):
    return [{"backbone": NAME, "weights": str(run / "seed-0" / "backbone.safetensors")} for run in runs]


def by_hooks(given, files):
    """Activations of some layers for the clip of each video, float64 [n, p], by layer, of each network."""
    rows = []
    for network, compared in zip(build_networks(given, device=torch.device("cpu")), given.networks, strict=True):
        clips = torch.cat([torch.from_numpy(network.source.pixels(file, 0)[0]) for file in files])
        backbone = build_backbone(NAME, weights=compared.weights)
        caught = {}
        for name in LAYERS:
            backbone.network.get_submodule(name).register_forward_hook(partial(catch, caught, name))
        mean, std = (torch.tensor(each)[:, None, None] for each in (network.recipe.mean, network.recipe.std))
        backbone.encode((clips / 255 - mean) / std, [backbone.layers[-1]])
        rows.append(caught)
    return rows


def catch(caught, name, module, given, output):
    caught[name] = output.flatten(1).double()


def hsic(x, y):
    n = len(x)
    return float((centred(x @ x.T) * centred(y @ y.T)).sum() / (n * (n - 3)))


def test_maps_are_those_of_activations_that_hooks_see(videos, runs, tmp_path):
    out = tmp_path / "out"
    shown = run_here(
        "evaluate", "cka", *runs, videos, "--out", out, "--workers", "0", "--device", "cpu", "--batch-size", "5",
        "--memory", 17_850_000, "--json",
    )  # fmt: skip
    result = json.loads(shown.stdout)
    assert json.loads((out / "result.json").read_text()) == result
    assert (result["num_clips"], result["num_batches"], result["num_left_out"]) == (8, 2, 1)
    assert result["passes_of_a_clip"] > 1.5  # little memory
    assert list(result["maps"]) == ["rot seed-0", "vcop seed-0", "rot seed-0 and vcop seed-0"] == [*result["untrained"]]
    assert result["untrained"]["rot seed-0"] == result["untrained"]["vcop seed-0"]
    assert not (out / "parts").exists()
    with Image.open(out / "cka.png") as picture:
        assert picture.format == "PNG"
    given = settings(videos, out, of_runs(runs), untrained=False)
    order = rng_for(0, "cka", "videos").permutation(9).tolist()
    listed = [video for video in read_parquet(videos).videos if video.split == "test"]
    rows = {}
    for batch in minibatches(9, batch_size=5):
        found = [listed[order[place]] for place in batch.videos]
        files = [VideoFile(video=each, path=videos.parent / each.path, decoder="pyav") for each in found]
        seen = by_hooks(given, [file for file in files if file.video.id != "3.mp4"])
        for one, first in enumerate(seen):
            for other, second in enumerate(seen):
                for name in LAYERS:
                    for against in LAYERS:
                        rows.setdefault((one, name, other, against), []).append(hsic(first[name], second[against]))
    with np.load(out / "maps.npz") as kept:
        maps = dict(kept)
    names = result["layers"]["rot seed-0"]
    assert maps["layers of rot seed-0"].tolist() == names
    for title, (one, other) in {
        "rot seed-0": (0, 0),
        "vcop seed-0": (1, 1),
        "rot seed-0 and vcop seed-0": (0, 1),
    }.items():
        for name in LAYERS:
            for against in LAYERS:
                own = np.mean(rows[one, name, one, name]) * np.mean(rows[other, against, other, against])
                expected = np.mean(rows[one, name, other, against]) / np.sqrt(own)
                value = maps[title][names.index(name), names.index(against)]
                assert value == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(np.diag(maps["rot seed-0"]), 1.0, atol=1e-9)


def test_a_killed_run_goes_on_where_it_was(videos, runs, tmp_path):
    given = {"networks": of_runs(runs[:1]), "batch_size": 4, "layers": "conv"}
    straight = evaluate_cka(settings(videos, tmp_path / "straight", **given))

    def kill(stage, done, total, *_):
        if stage == "pass" and done > 0.7 * total:  # in the second network of the second minibatch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_cka(settings(videos, tmp_path / "killed", **given), on_stage=kill)
    stages = []
    changed = settings(videos, tmp_path / "killed", **{**given, "layers": "all"})
    with pytest.raises(RecipeMismatchError, match="with layers 'conv', which is 'all' here"):
        evaluate_cka(changed)
    again = evaluate_cka(settings(videos, tmp_path / "killed", **given), on_stage=lambda *said: stages.append(said[:3]))
    assert (again.maps, again.untrained, again.passes) == (straight.maps, straight.untrained, straight.passes)
    passed = [done for stage, done, total in stages if stage == "pass"]
    assert passed[0] > 0.6 * straight.passes
    assert passed[-1] == straight.passes
    for name in ("maps.npz", "cka.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_networks_of_several_sizes_are_shown_the_same_videos(videos, tmp_path):
    networks = [{"backbone": "timm/test_resnet", "weights": "random"}, {"backbone": "c3d-tiny", "weights": "random"}]
    result = evaluate_cka(settings(videos, tmp_path, networks, split="test", num_frames=None, num_clips=4))
    assert (result.num_clips, result.untrained) == (4, {})
    assert list(result.maps) == [
        "timm/test_resnet untrained",
        "c3d-tiny untrained",
        "timm/test_resnet untrained and c3d-tiny untrained",
    ]
    assert next(reversed(result.maps.values())).largest is None
    assert "largest block" in result.summary().tables[0].columns


def test_what_cannot_be_compared(videos, tmp_path):
    networks = [{"backbone": NAME, "weights": "random"}]
    with pytest.raises(UnknownNameError, match=r"unknown split 'tset'; did you mean 'test'"):
        evaluate_cka(settings(videos, tmp_path, networks, split="tset"))
    with pytest.raises(ManifestError, match=r"1 videos of .* can be used, and CKA needs 4"):
        evaluate_cka(settings(videos, tmp_path, networks, split="train"))
    with pytest.raises(ConfigError, match=r"memory is 1\.0 kB and two clips of r21d-tiny untrained take"):
        evaluate_cka(settings(videos, tmp_path, networks, memory=1000))
    with pytest.raises(ConfigError, match="joins several"):
        settings(videos, tmp_path, [{"backbone": "clip-b16+dinov2-s14"}])


def test_no_minibatch_is_too_small():
    assert [len(batch.videos) for batch in minibatches(10, batch_size=4)] == [5, 5]
    assert [len(batch.videos) for batch in minibatches(256, batch_size=64)] == [64] * 4
    assert [batch.videos for batch in minibatches(5, batch_size=4)] == [(0, 1, 2, 3, 4)]


def test_what_the_words_of_a_command_line_mean(videos, runs, tmp_path):
    rot, vcop = runs
    words = ("evaluate", "cka")
    one = settings_of(*words, rot, videos)
    assert one.source == str(videos)
    assert [each.model_dump() for each in one.networks] == of_runs([rot])
    epoch = rot / "seed-0" / "epoch-001.safetensors"
    two = settings_of(*words, epoch, vcop, "--dataset", "ucf101", "--root", tmp_path)
    assert (two.source, two.dataset) == (None, "ucf101")
    assert [each.weights for each in two.networks] == [str(epoch), of_runs([vcop])[0]["weights"]]
    named = settings_of(*words, "r21d", "c3d", videos, "-w", "random", "-w", epoch)
    assert [(each.backbone, each.weights) for each in named.networks] == [("r21d", "random"), ("c3d", str(epoch))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{rot}",), "is a network and no videos are named; give a folder or listing"),
        (("r21d",), "r21d is a network and no videos are named"),
        (("{rot}", "{vcop}", "{rot}", "{videos}"), "are 3 networks; CKA compares one with itself, or two"),
        (("{rot}", "{videos}", "-w", "random"), "--weights random is given beside"),
        (("r21d", "{videos}", "-w", "random", "-w", "random"), "2 --weights for 1 networks"),
        (("{videos}",), "no network is named; give a run, one of its weights files"),
        (("{videos}", "{videos}"), "does not say whose weights it holds; name its backbone"),
        (("r21dd", "{videos}"), "r21d"),
    ],
)
def test_words_that_name_no_comparison(videos, runs, words, message):
    places = {"rot": runs[0], "vcop": runs[1], "videos": videos}
    done = run_here("evaluate", "cka", *(word.format(**places) for word in words), check=False)
    assert done.returncode == 2 or done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_fine_tuned_network_reads_what_it_was_tested_on(tmp_path):
    classes = write_classes(tmp_path, {"train": 2, "test": 3})
    run = tmp_path / "ft"
    trained = training(seeds=(0,), epochs=1, keep_epochs=(1,))
    finetune(of_classes(classes, run, training=trained, mean=(0.4, 0.5, 0.6)))
    paths = [find_run_file(str(each)).path for each in (run, run / "seed-0" / "epoch-001.safetensors")]
    assert [path.name for path in paths] == ["classifier.safetensors", "epoch-001.safetensors"]
    networks = [{"backbone": "svt-tiny", "weights": str(path)} for path in paths]
    given = settings(classes, tmp_path / "out", networks, num_frames=None, input_size=None, layers="conv")
    for network in build_networks(given, device=torch.device("cpu")):
        assert (network.clip.num_frames, network.recipe.input_size) == (2, 32)
        assert network.recipe.mean == (0.4, 0.5, 0.6)
    result = evaluate_cka(given)
    one, last, both = result.maps.values()
    assert list(result.maps)[:2] == ["ft seed-0", "ft seed-0 epoch-001"]
    assert one == last  # the run had one epoch
    assert both.mean == pytest.approx(one.mean, abs=0.05)
    twin, other, both = result.untrained.values()
    assert twin == other
    num = len(result.layers["ft seed-0"])
    known = num - 4  # the ends of four branches that begin at 0 say nothing
    assert both.mean == pytest.approx((twin.mean * (known - 1) + 1) / known)  # one network is both: 1 on the diagonal
