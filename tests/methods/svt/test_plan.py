"""The dry run of SVT's pre-training, on a generated Kinetics tree and against a run."""

import json
from pathlib import Path

import pytest
import torch

from featcache.data.types import VideoRecord
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.videos import VideoFiles
from featcache.methods.svt.module import build_module
from featcache.methods.svt.objective import SvtObjective, ViewBatch
from featcache.methods.svt.plan import macs_per_video, plan_svt
from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtInitSettings, SvtLossSettings, SvtSettings
from featcache.methods.svt.views import SvtViewSource
from featcache.networks.counting import counting_macs
from featcache.testing.datasets import make_kinetics, put_video
from featcache.testing.videos import write_video
from featcache.training.settings import TrainingSettings
from tests.cli.helpers import run_here
from tests.methods.svt.helpers import small_views

SHIPPED = Path(__file__).parents[3] / "configs" / "svt" / "k400_vitb.yaml"


def small(source, out, **changes):
    training = TrainingSettings(epochs=1, batch_size=2, device="cpu", threads=1, tensorboard=False)
    given = {
        "source": str(source),
        "size": "tiny",
        "workers": 0,
        "views": small_views(global_frames=(2, 4), local_frames=(2, 2)),
        "head": SvtHeadSettings(hidden=16, bottleneck=8, prototypes=32),
        "training": training,
        "out": str(out),
    }
    return SvtSettings(**{**given, **changes})


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A Kinetics tree of real videos, one of which is missing."""
    root = tmp_path_factory.mktemp("kinetics")
    make_kinetics(root)
    return root


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("run", SHIPPED, "--root", "kinetics400={tree}"),
        pytest.param(("train", "svt", "--config", SHIPPED, "--root", "{tree}"), marks=pytest.mark.slow),
    ],
)
def test_the_shipped_kinetics_run_says_what_it_takes_and_writes_nothing(tree, elsewhere, words):
    given = [str(word).format(tree=tree) for word in words]
    plan = json.loads(run_here(*given, "--dry-run", "--json").stdout)
    found = plan["forecast"]
    assert (plan["num_train"], plan["num_left_out"], plan["num_steps"], plan["size"]) == (2, 1, None, "base")
    assert (plan["num_parameters"], len(plan["views"])) == (121_264_896, 10)
    missing = " ".join(found["missing"])
    assert "1 of 3 training videos, e.g. 'lostlostlos_000008_000018'" in missing
    assert "init.weights 'dino_vitbase16_pretrain.pth' is not a file" in missing
    assert "2 make no batch of 32" in missing
    assert len(found["missing"]) == 3
    # 30 + 30 frames of locals and 24 of globals by the student, the globals by the teacher: 6.3 TFLOP
    assert found["operations_a_video"] == pytest.approx(6.3e12, rel=0.01)
    a100 = {one["precision"]: one for one in found["gpus"] if one["gpu"] == "A100"}
    assert a100["bfloat16"]["videos_a_second"] == pytest.approx(0.4 * 312e12 / found["operations_a_video"])
    for one in a100.values():
        assert one["cores"] >= 1
        assert one["hours"]["8"] == pytest.approx(2 * 20 / one["videos_a_second"] / 8 / 3600)
    assert found["decoding"]["num_videos"] == 2
    student = 4 * plan["num_trained"]
    assert found["num_bytes"] == pytest.approx(4 * student + 4 * plan["num_parameters"], rel=0.01)
    assert found["precision"] == "bfloat16"
    assert list(elsewhere.iterdir()) == []


def test_the_words_name_hours_cores_bytes_and_what_is_missing(tree, elsewhere):
    words = ("train", "svt", "--dataset", "kinetics400", "--root", tree, "--size", "tiny", "--init", "dino.pth")
    shown = run_here(*words, "--set", "training.batch_size=2", "--dry-run").stdout
    assert "A100, bfloat16" in shown
    assert "cores per GPU" in shown
    assert "8 GPUs" in shown
    assert "videos/s per core with these views, measured on 2 of the videos" in shown
    assert "a checkpoint of" in shown
    assert "missing: init.weights 'dino.pth' is not a file; give the path of one, or set init.start to random" in shown
    assert "2 things are missing" in shown
    assert list(elsewhere.iterdir()) == []


def test_a_command_without_a_dry_run_says_so(elsewhere):
    refused = run_here("run", SHIPPED.with_name("table1_ucf101_hmdb51.yaml"), "--dry-run", check=False)
    assert refused.returncode == 1
    assert "the command 'sweep' has no dry run; extract, train-r3d50, train-svt" in " ".join(refused.stderr.split())
    assert list(elsewhere.iterdir()) == []


def test_nothing_but_the_videos_is_known_without_them(elsewhere):
    plan = plan_svt(small("nowhere", "out"))
    assert (plan.num_train, plan.num_steps, plan.forecast.decoding) == (None, None, None)
    assert "nowhere does not exist" in plan.forecast.missing[0]
    assert plan.forecast.gpus[0].videos_a_second > 0
    assert "unknown" in plan.summary().facts["steps"]


def test_steps_and_bytes_are_those_of_a_run(tmp_path):
    for number in range(5):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=20) if number else (tmp_path / "videos").mkdir()
    put_video(tmp_path / "videos", "0.mp4")
    given = small(tmp_path / "videos", tmp_path / "run")
    plan = plan_svt(given)
    assert not (tmp_path / "run").exists()
    assert plan.forecast.missing == ()
    result = pretrain_svt(given)
    assert plan.num_train == result.num_videos == 5
    assert plan.num_steps == result.seeds[0]["step"] == 2
    assert plan.num_parameters == result.num_parameters
    seed = tmp_path / "run" / "seed-0"
    (checkpoint,) = seed.glob("checkpoint-*.safetensors")
    cost = plan.forecast.cost
    assert cost.checkpoint_bytes == pytest.approx(checkpoint.stat().st_size, rel=0.01)
    assert cost.weights_bytes == pytest.approx((seed / "teacher.safetensors").stat().st_size, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stem": "difference", "loss": SvtLossSettings(centering="reversal")},
        {"loss": SvtLossSettings(routes=("l2l", "g2l"))},
        {"loss": SvtLossSettings(single_teacher=True)},
    ],
)
def test_operations_are_those_of_the_loss(changes):
    """Counted in the forward passes of a step on the CPU; the loss of the prototypes is left out of the count."""
    given = small("videos", "out", **changes)
    module = build_module(given, seed=0)
    views = given.views
    clips = tuple(
        torch.zeros(1, frames, 3, side, side, dtype=torch.uint8)
        for frames, side in zip(views.num_frames, views.sizes, strict=True)
    )
    files = VideoFiles([VideoRecord(id=name, path=name) for name in "ab"], [Path("a"), Path("b")], decoder="pyav")
    loader = ViewLoader(SvtViewSource(views, seed=0), files, workers=0)
    objective = SvtObjective(loader, given, module=module, seed=0)
    seen = []
    for teacher_view in (0, 1) if given.loss.single_teacher else (None,):
        with counting_macs() as macs:
            objective.loss(ViewBatch(clips=clips, epoch=0.0, teacher_view=teacher_view))
        seen.append(macs.total)
    assert sum(macs_per_video(module.to("meta"), given)) == pytest.approx(sum(seen) / len(seen), rel=0.002)


def test_a_file_of_weights_of_another_size_is_missing_too(tmp_path, tree):
    torch.save({"cls_token": torch.zeros(1, 1, 4)}, tmp_path / "other.pth")
    init = SvtInitSettings(start="image", weights=str(tmp_path / "other.pth"))
    plan = plan_svt(small(tree, tmp_path / "run", init=init))
    assert any("other.pth" in sentence for sentence in plan.forecast.missing)
