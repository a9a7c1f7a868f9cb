"""SVT's pre-training whole: steps by hand, a killed run, a teacher that extracts, and what is refused."""

import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from featcache.backbones import build_backbone
from featcache.config import parse
from featcache.data import hashing, kept
from featcache.data.manifest import read_parquet
from featcache.data.scan import scan_listed
from featcache.errors import (
    ConfigError,
    FeatcacheError,
    ManifestError,
    RecipeMismatchError,
    VideoError,
    WeightsError,
)
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.loaders.videos import VideoFile
from featcache.machine import num_cores
from featcache.methods.svt.losses import distillation_loss, teacher_targets
from featcache.methods.svt.module import build_module, network_input
from featcache.methods.svt.objective import SvtObjective
from featcache.methods.svt.pairs import positions_of, view_pairs
from featcache.methods.svt.run import open_videos, pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtInitSettings, SvtLossSettings, SvtSettings
from featcache.methods.svt.views import SvtViewSource
from featcache.testing.videos import write_video
from featcache.training.generators import seeded_torch
from featcache.training.loop import trained_state
from featcache.training.meter import DivergedError
from featcache.training.schedules import cosine
from featcache.training.settings import OptimiserSettings, TrainingSettings
from tests.methods.svt.helpers import small_views
from tests.training.kept_files import check_kept

NUM_FRAMES = (24, 20, 28, 22, 30)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / f"{number}.mp4", num_frames=num_frames)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def training(**changes):
    given = {"epochs": 2, "batch_size": 2, "device": "cpu", "threads": 1, "tensorboard": False, "checkpoint_seconds": 0}
    optimiser = OptimiserSettings(lr=1e-3, weight_decay=0.04, final_weight_decay=0.1)
    return TrainingSettings(**{"optimiser": optimiser, "clip_each_norm": 3.0, **given, **changes})


def settings(videos, out, **changes):
    given = {
        "source": str(videos),
        "size": "tiny",
        "workers": 0,
        "views": small_views(global_frames=(2, 4), local_frames=(2, 2)),
        "head": SvtHeadSettings(hidden=16, bottleneck=8, prototypes=32),
        "training": training(),
        "out": str(out),
    }
    return SvtSettings(**{**given, **changes})


@pytest.fixture(scope="module")
def straight(videos, tmp_path_factory):
    """A run to its end."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, pretrain_svt(settings(videos, folder, training=training(keep_epochs=(1, 2))))


def test_short_and_unusable_videos_are_counted(videos, caplog):
    files, num_left_out = open_videos(settings(videos, "unused", views=small_views()))
    assert (len(files.videos), num_left_out) == (5, 1)
    assert caplog.messages == [
        "1 of 6 videos cannot be used; `featcache scan` says why",
        "5 of 5 videos are shorter than some of their views, which repeat frames; lower views.local_frames, or raise "
        "views.local_time",
    ]


def test_a_run_says_what_it_saw(straight):
    _, result = straight
    assert (result.num_videos, result.num_left_out, result.backbone) == (5, 1, "svt-tiny")
    line = result.seeds[0]
    assert line["step"] == 4
    assert np.isfinite([line[name] for name in ("loss", "entropy", "mean_entropy", "feature_deviation", "rank")]).all()
    assert line["entropy"] <= line["mean_entropy"] <= np.log(32) + 1e-4


def test_a_killed_run_goes_on_with_the_same_bits(videos, straight, tmp_path):
    folder, result = straight
    chosen = settings(videos, tmp_path, training=training(keep_epochs=(1, 2)))

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_svt(chosen, on_stage=kill)
    assert trained_state(tmp_path / "seed-0").step == 2
    resumed = pretrain_svt(chosen)
    states = [trained_state(each / "seed-0") for each in (folder, tmp_path)]
    assert states[0].step == states[1].step == 4
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(states[0].tensors[name], tensor) for name, tensor in states[1].tensors.items())
    assert resumed.seeds[0]["loss"] == result.seeds[0]["loss"]
    assert (tmp_path / "seed-0" / "teacher.safetensors").read_bytes() == (
        folder / "seed-0" / "teacher.safetensors"
    ).read_bytes()
    check_kept(folder / "seed-0", tmp_path / "seed-0", last=2, name="teacher.safetensors")


def test_a_trained_teacher_is_a_backbone(videos, straight):
    _, result = straight
    backbone = build_backbone("svt-tiny", weights=result.weights[0])
    module = build_module(settings(videos, "unused"), seed=0)
    module.load_state_dict(trained_state(straight[0] / "seed-0").part("module"))
    clip = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = module.eval().teacher.backbone(clip)
        other = module.student.backbone(clip)
    assert torch.equal(backbone.encode(clip, ["norm"])["norm"].cls, own)
    assert not torch.equal(own, other)
    with safe_open(result.weights[0], "pt") as file:
        facts = json.loads(file.metadata()["featcache"])
    assert (facts["backbone"], facts["network"]["num_frames"], facts["seed"]) == ("svt-tiny", 16, 0)


def objective_of(videos, **changes):
    chosen = settings(videos, "unused", **changes)
    loader = ViewLoader(SvtViewSource(chosen.views, seed=0), open_videos(chosen).files, workers=0)
    return SvtObjective(loader, chosen, module=build_module(chosen, seed=0), seed=0)


@pytest.mark.parametrize("single", [False, True])
def test_loss_and_centre_are_those_of_views_seen_one_by_one(videos, single):
    loss = SvtSettings.model_fields["loss"].default.model_copy(update={"single_teacher": single})
    objective = objective_of(videos, drop_path=0.0, loss=loss)
    module = objective.trained
    with torch.no_grad():  # else student and teacher are equal
        module.center.copy_(torch.linspace(-0.1, 0.1, 32))
        for parameter in module.student.parameters():
            parameter += 0.01
    (part,) = objective.parts(1, 0)
    assert [clip.shape for clip in part.clips] == [
        (2, 2, 3, 32, 32),
        (2, 4, 3, 32, 32),
        (2, 2, 3, 16, 16),
        (2, 2, 3, 16, 16),
    ]
    pairs = view_pairs(loss.routes, num_locals=2, teacher_view=part.teacher_view)
    assert len(pairs) == (3 if single else 6)
    seen = [part.teacher_view] if single else [0, 1]
    with torch.no_grad():
        teacher = torch.stack(
            [module.teacher.head(module.teacher.backbone(network_input(part.clips[view]))) for view in seen]
        )
        student = torch.stack([module.student.head(module.student.backbone(network_input(c))) for c in part.clips])
        kept = [view for view in range(4) if not single or view != part.teacher_view]
        expected = distillation_loss(
            student[kept],
            teacher_targets(teacher, module.center, temperature=0.04),
            positions_of(pairs),
            temperature=0.1,
            sums=single,
        )
    center = 0.9 * module.center + 0.1 * teacher.flatten(0, 1).mean(dim=0)
    got = objective.loss(part)
    torch.testing.assert_close(got.total.detach(), expected)
    torch.testing.assert_close(module.center, center)
    got.total.backward()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


def test_paired_centring_sees_every_view_backwards_too(videos):
    loss = SvtLossSettings(centering="reversal", teacher_temperature=0.02)
    objective = objective_of(videos, drop_path=0.0, loss=loss, stem="difference")
    module = objective.trained
    with torch.no_grad():  # else student and teacher are equal
        for parameter in module.student.parameters():
            parameter += 0.01
    (part,) = objective.parts(1, 0)
    with torch.no_grad():
        both = [(clip, clip.flip(1)) for clip in part.clips]
        student, teacher = (
            [
                torch.stack([branch.head(branch.backbone(network_input(clip))) for clip in pair])
                for pair in (both if branch is module.student else both[:2])
            ]
            for branch in (module.student, module.teacher)
        )
        terms = []
        for pair in view_pairs(loss.routes, num_locals=2):
            logits = teacher[pair.teacher]
            targets = ((logits - logits.mean(dim=0)) / 0.02).softmax(-1)
            terms.append(-(targets * (student[pair.student] / 0.1).log_softmax(-1)).sum(-1).mean())
    got = objective.loss(part)
    torch.testing.assert_close(got.total.detach(), torch.stack(terms).mean())
    assert not module.center.any()
    got.total.backward()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


def test_a_stem_of_differences_begins_from_an_image_network_and_from_its_own_file_alone(videos, straight, tmp_path):
    state = {n: t for n, t in load_file(straight[1].weights[0]).items() if "temporal" not in n and n != "time_embed"}
    save_file(state, tmp_path / "image.safetensors")
    init = SvtInitSettings(start="image", weights=str(tmp_path / "image.safetensors"))
    chosen = settings(videos, "unused", init=init, time_positions=4, stem="difference")
    filters = build_module(chosen, seed=5).teacher.backbone.patch_embed.proj.weight
    assert torch.equal(filters[:, :3], state["patch_embed.proj.weight"])
    assert filters[:, 3:].std() > 0
    begun = SvtInitSettings(start="checkpoint", weights=straight[1].weights[0])
    with pytest.raises(WeightsError, match="has the stem 'patches' and stem is 'difference'"):
        build_module(settings(videos, "unused", init=begun, time_positions=4, stem="difference"), seed=5)


def test_low_precision_and_recomputed_blocks_change_the_loss_little(videos):
    plain = objective_of(videos)
    (part,) = plain.parts(0, 0)
    losses = []
    for objective, is_low in ((plain, False), (objective_of(videos, recomputes_blocks=True), True)):
        with seeded_torch(0, "paths"), torch.autocast("cpu", torch.bfloat16, enabled=is_low):
            loss = objective.loss(part)
        loss.total.backward()
        assert loss.total.dtype == torch.float32
        assert all(parameter.grad.isfinite().all() for parameter in objective.trained.student.parameters())
        losses.append(loss.total.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_teacher_is_the_moving_average_of_its_students(videos, tmp_path):
    chosen = settings(videos, tmp_path, training=training(epochs=1))
    module = build_module(chosen, seed=0)
    name = "backbone.blocks.3.mlp.fc1.weight"
    expected, students = module.teacher.state_dict()[name].clone(), []

    def note(stage, done, total, note="", num_failed=0):  # before the checkpoint of its step is written
        if (stage, done) == ("seed 0", 1):
            students.append(trained_state(tmp_path / "seed-0").part("module")[f"student.{name}"])

    pretrain_svt(chosen, on_stage=note)
    state = trained_state(tmp_path / "seed-0").part("module")
    students.append(state[f"student.{name}"])
    assert len(students) == 2
    for step, student in enumerate(students):
        momentum = cosine(0.996, 1.0, (step + 1) / 2)
        expected = momentum * expected + (1 - momentum) * student
    torch.testing.assert_close(state[f"teacher.{name}"], expected, rtol=0, atol=1e-8)
    assert not torch.equal(state[f"teacher.{name}"], module.teacher.state_dict()[name])
    frozen = "head.last_layer.weight_v"
    assert torch.equal(state[f"student.{frozen}"], module.state_dict()[f"student.{frozen}"]), "frozen for an epoch"


def test_processes_decode_the_same_pixels_and_say_which_video_changed(videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    chosen = settings(folder, "unused")
    source, files = SvtViewSource(chosen.views, seed=0), open_videos(chosen).files
    batches = [Batch(0, (3, 1)), Batch(0, (0, 2)), Batch(1, (3, 1))]
    alone = ViewLoader(source, open_videos(chosen).files, workers=0)
    with ViewLoader(source, files, workers=2) as loader:
        for number, batch in enumerate(batches):
            got_views = loader.views(batch, following=batches[number + 1 :]).arrays
            for got, expected in zip(got_views, alone.views(batch).arrays, strict=True):
                assert torch.equal(got, expected)
        (folder / "4.mp4").write_bytes(b"cut off")
        for each in (loader, alone):
            with pytest.raises(VideoError, match=r"changed: '4\.mp4' passed the scan and cannot be used now"):
                each.views(Batch(2, (0, 4)))
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(FeatcacheError, match=r"a decoding process died .* '0\.mp4'.* with fewer workers"):
            loader.views(Batch(3, (0, 1)))


def test_starting_again_opens_new_files_only_and_refuses_another_content(videos, tmp_path, monkeypatch):
    folder = shutil.copytree(videos, tmp_path / "videos")
    chosen = settings(folder, tmp_path / "run", training=training(epochs=1))
    opened = []

    def noting(listed, **options):
        opened.append(([video.id for video in listed.videos], options["num_workers"]))
        return scan_listed(listed, **options)

    monkeypatch.setattr(kept, "scan_listed", noting)
    result = pretrain_svt(chosen)
    assert opened == [([f"{number}.mp4" for number in range(5)] + ["broken.mp4"], num_cores())]
    manifest = read_parquet(tmp_path / "run" / "videos.parquet")
    assert (len(manifest), manifest.count_by_status()["ok"]) == (6, 5)
    opened.clear()
    monkeypatch.setattr(hashing, "content_hash", None)
    monkeypatch.setattr(VideoFile, "open", None)
    assert pretrain_svt(chosen).seeds == result.seeds
    assert opened == [], "a finished run on unchanged videos opens none"
    monkeypatch.undo()
    monkeypatch.setattr(kept, "scan_listed", noting)
    os.utime(folder / "1.mp4")
    assert pretrain_svt(chosen).seeds == result.seeds
    assert [names for names, _ in opened] == [["1.mp4"]]
    shutil.copy(folder / "0.mp4", folder / "3.mp4")
    with pytest.raises(RecipeMismatchError, match="holds a run with content of videos"):
        pretrain_svt(chosen)
    (folder / "3.mp4").unlink()
    with pytest.raises(RecipeMismatchError, match="holds a run with content of videos"):
        pretrain_svt(chosen)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(videos, tmp_path):
    wild = training(epochs=5, optimiser=OptimiserSettings(lr=1e30, weight_decay=0.0), clip_each_norm=None)
    with pytest.raises(DivergedError, match=r"not finite by step \d .* the last checkpoint there is good"):
        pretrain_svt(settings(videos, tmp_path, training=wild))
    assert trained_state(tmp_path / "seed-0").step >= 1
    assert not (tmp_path / "seed-0" / "teacher.safetensors").exists()


def test_a_collapse_is_warned_of_once(videos, tmp_path, caplog):
    blunt = SvtSettings.model_fields["loss"].default.model_copy(update={"teacher_temperature": 1e3})
    blunt = blunt.model_copy(update={"first_teacher_temperature": 1e3})
    pretrain_svt(settings(videos, tmp_path, loss=blunt))
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(
        "epoch 1 of seed 0 looks collapsed: assignments say nothing (entropy 3.47 of at most 3.47 nats)"
    )


def test_what_cannot_be_trained_is_a_sentence(videos, straight, tmp_path):
    with pytest.raises(ConfigError, match=r"5 training videos make no batch of 32; .*training\.batch_size=5"):
        pretrain_svt(settings(videos, tmp_path / "a", training=training(batch_size=32)))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ManifestError, match="none of 1 videos can be used"):
        pretrain_svt(settings(tmp_path / "none", tmp_path / "b"))
    other = SvtInitSettings(start="checkpoint", weights=straight[1].weights[0])
    with pytest.raises(WeightsError, match=r"teacher.safetensors for size 'small' does not fit .* missing"):
        pretrain_svt(settings(videos, tmp_path / "c", size="small", init=other))
    absent = SvtInitSettings(start="image", weights="absent.pth")
    with pytest.raises(
        WeightsError, match=r"init\.weights 'absent.pth' is not a file; give the path of one, or set init"
    ):
        pretrain_svt(settings(videos, tmp_path / "d", init=absent), on_stage=lambda *figures: pytest.fail("scanned"))
    with pytest.raises(FeatcacheError, match=r"a run with drop_path 0\.1, which is 0\.2 here"):
        pretrain_svt(settings(videos, straight[0], drop_path=0.2))
    with pytest.raises(ConfigError, match="the teacher is such an average"):
        parse(SvtSettings, {"source": "videos", "training": {"ema_decay": 0.9}})


def test_a_run_begins_from_a_teacher(videos, straight):
    init = SvtInitSettings(start="checkpoint", weights=straight[1].weights[0])
    module = build_module(settings(videos, "unused", init=init, time_positions=4), seed=5)
    saved = build_backbone("svt-tiny", weights=straight[1].weights[0]).network.state_dict()
    for branch in (module.student, module.teacher):
        assert all(torch.equal(saved[name], tensor) for name, tensor in branch.backbone.state_dict().items())
    assert module.student.backbone.config.drop_path == 0.1


def test_a_run_begins_from_an_image_network(videos, straight, tmp_path):
    state = {n: t for n, t in load_file(straight[1].weights[0]).items() if "temporal" not in n and n != "time_embed"}
    save_file(state, tmp_path / "image.safetensors")
    init = SvtInitSettings(start="image", weights=str(tmp_path / "image.safetensors"))
    network = build_module(settings(videos, "unused", init=init, time_positions=4), seed=5).teacher.backbone
    assert torch.equal(network.blocks[1].temporal_attn.qkv.weight, state["blocks.1.attn.qkv.weight"])
    assert not network.blocks[1].temporal_fc.weight.any()
    assert network.time_embed.shape == (1, 4, 192)
