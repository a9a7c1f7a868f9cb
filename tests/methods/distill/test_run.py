"""Students: the loss by hand, each as it would be alone, resumed runs, folders that read as fine-tuned runs."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featcache.backbones import build_backbone
from featcache.commands import shorthand
from featcache.commands.classify import ClassifySettings, classify
from featcache.commands.registry import load
from featcache.config import parse, read_mapping
from featcache.errors import ConfigError, RecipeMismatchError
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.labelled import read_data
from featcache.methods.distill.module import Students, crop_of
from featcache.methods.distill.objective import DistillObjective
from featcache.methods.distill.plan import plan_distill
from featcache.methods.distill.run import build_students, distill
from featcache.methods.distill.settings import DistillSettings, StudentSettings
from featcache.methods.finetune.finished import FinishedRun
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.sampling import clip_source
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings
from featcache.metrics.comparison import compare
from featcache.metrics.predictions import read_outcomes
from featcache.training.logs import read_log
from tests.methods.distill.helpers import SVT, VIT, settings
from tests.methods.distill.test_teachers import read, saved, trained
from tests.methods.finetune.helpers import training, write_classes


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 3, "test": 2})


@pytest.fixture(scope="module")
def teachers(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return tuple(saved(folder / f"{key}.npz", trained(videos), key=key) for key in (0, 1, 2))


@pytest.fixture(scope="module")
def pair(videos, teachers, tmp_path_factory):
    """Two students of different inputs in one run, whose gradients are clipped."""
    out = tmp_path_factory.mktemp("pair")
    result = distill(
        settings(videos, out, students=(SVT, VIT), teachers=teachers, mode="aekd", training=training(clip_norm=0.5))
    )
    return out, result


def tensors(folder):
    return load_file(folder / "seed-0/classifier.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("mode", ["sum", "mean", "aekd"])
def test_the_loss_is_the_sum_by_hand_at_temperature_4(videos, teachers, mode):
    asked = settings(videos, "nowhere", teachers=teachers[:2], mode=mode, kd_weight=0.7)
    tuning = asked.as_finetuning(SVT)
    (student,) = build_students({"one": tuning}, num_classes=2, seed=0, device=torch.device("cpu"))
    data, taught = read_data(tuning), read(asked.teachers, videos)
    loader = ViewLoader(clip_source(tuning, student, seed=0), data.train.files, workers=0)
    objective = DistillObjective(
        loader,
        data.train.labels,
        students=Students([student]),
        teachers=taught,
        sizes=[crop_of(student)],
        settings=asked,
        seed=0,
    )
    objective.module.eval()  # without dropout
    (part,) = objective.parts(0, 1)
    loss = objective.loss(part)
    with torch.no_grad():
        logits = student(part.clips[crop_of(student)]).tolist()
    said = taught.logits(part.videos, {}).tolist()
    labels = part.labels.tolist()
    assert labels == data.train.labels[list(part.videos)].tolist()
    entropy = -sum(math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)) / 3
    divergences = []
    for teacher in said:
        pairs = zip(teacher, logits, strict=True)
        each = [
            sum(p * math.log(p / q) for p, q in zip(softmax(theirs, 4), softmax(mine, 4), strict=True))
            for theirs, mine in pairs
        ]
        divergences.append(16 * sum(each) / 3)
    weights = {"sum": [1, 1], "mean": [0.5, 0.5]}.get(mode) or [
        loss.metrics[f"weight_{number}"].item() for number in (0, 1)
    ]
    assert mode == "sum" or sum(weights) == pytest.approx(1)
    together = sum(weight * each for weight, each in zip(weights, divergences, strict=True))
    assert loss.total.item() == pytest.approx(entropy + 0.7 * together, rel=1e-5)
    assert loss.metrics["cross_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert loss.metrics["divergence"].item() == pytest.approx(together, rel=1e-4)


def test_without_teachers_a_student_is_a_fine_tuned_network_to_the_bit(videos, tmp_path):
    alone = settings(videos, tmp_path / "alone", kd_weight=0.0)
    result = distill(alone)
    tuned = finetune(alone.as_finetuning(SVT, out=str(tmp_path / "tuned")))
    assert same(tensors(tmp_path / "alone/svt-tiny"), tensors(tmp_path / "tuned"))
    (difference,) = compare([tmp_path / "alone", tmp_path / "tuned"]).splits["test"].differences
    assert (difference.low, difference.high) == (0, 0)
    assert result.to_dict()["splits"] == tuned.to_dict()["splits"]
    assert result.students["svt-tiny"].splits == tuned.splits
    assert "none, labels alone" in str(result.summary().facts)


def test_students_end_in_company_as_each_would_alone(videos, teachers, pair, tmp_path):
    out, result = pair
    assert list(result.students) == ["svt-tiny", "timm-test_vit"]
    for student in (SVT, VIT):
        alone = settings(
            videos,
            tmp_path / student.folder,
            students=(student,),
            teachers=teachers,
            mode="aekd",
            training=training(clip_norm=0.5),
        )
        own = distill(alone)
        assert same(tensors(tmp_path / student.folder / student.folder), tensors(out / student.folder))
        assert own.students[student.folder].splits == result.students[student.folder].splits
    line = read_log(out / "seed-0")[-1]
    assert sum(line[f"svt-tiny.weight_{number}"] for number in range(3)) == pytest.approx(1, abs=1e-5)
    assert {"timm-test_vit.accuracy", "svt-tiny.divergence", "svt-tiny.cross_entropy"} <= line.keys()


def test_a_student_reads_as_a_fine_tuned_run(videos, pair):
    out, result = pair
    folder = out / "svt-tiny"
    assert {"config.yaml", "result.json", "predictions.parquet", "seed-0"} <= {path.name for path in folder.iterdir()}
    mine = result.students["svt-tiny"]
    assert json.loads((folder / "result.json").read_text())["splits"]["test"]["metrics"].keys() >= {"top1"}
    assert mine.models == {0: str(folder / "seed-0/classifier.safetensors")}
    assert parse(FinetuneSettings, read_mapping(folder / "config.yaml")).backbone == "svt-tiny"
    assert FinishedRun.find(str(folder)).settings.source == str(videos)
    assert "splits" not in result.to_dict()
    assert load(out / "config.yaml") == settings(
        videos,
        out,
        students=(SVT, VIT),
        teachers=result.teachers,
        mode="aekd",
        training=training(clip_norm=0.5),
    )
    assert len(read_outcomes(folder).keys) == 4
    file = str(videos.parent / "test-red-0.mp4")
    found = classify(ClassifySettings(files=(file,), model=str(folder), workers=0, device="cpu"))
    assert set(found.videos[0].classes) == {"blue", "red"}
    whole = build_backbone("svt-tiny", weights=str(folder / "seed-0/classifier.safetensors"))
    network = build_backbone("svt-tiny", weights=str(folder / "seed-0/backbone.safetensors"))
    assert (whole.classes, network.classes) == (("blue", "red"), None)
    assert json.loads(json.dumps(result.to_dict()))["students"]["svt-tiny"]["num_classes"] == 2
    assert [row[0] for row in result.summary().tables[0].rows] == ["svt-tiny", "timm-test_vit"]


def test_a_killed_run_goes_on_exactly_and_other_teachers_are_another_run(videos, teachers, tmp_path):
    asked = {"teachers": teachers[:2], "mode": "mean", "training": training(checkpoint_seconds=0)}
    distill(settings(videos, tmp_path / "straight", **asked))

    def killed(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(settings(videos, tmp_path / "killed", **asked), on_stage=killed)
    stages = []
    distill(settings(videos, tmp_path / "killed", **asked), on_stage=lambda stage, *rest, **more: stages.append(stage))
    assert 0 < stages.count("seed 0") < 4
    assert same(tensors(tmp_path / "killed/svt-tiny"), tensors(tmp_path / "straight/svt-tiny"))
    others = {**asked, "teachers": teachers[1:]}
    with pytest.raises(RecipeMismatchError, match="content of teachers"):
        distill(settings(videos, tmp_path / "killed", **others))
    with pytest.raises(RecipeMismatchError, match="permute_teachers"):
        distill(settings(videos, tmp_path / "killed", **asked, permute_teachers=True))


def test_permuted_teachers_teach_something_else(videos, teachers, tmp_path):
    plain, permuted = (
        distill(settings(videos, tmp_path / str(given), teachers=teachers[:1], permute_teachers=given))
        for given in (False, True)
    )
    assert not same(tensors(tmp_path / "False/svt-tiny"), tensors(tmp_path / "True/svt-tiny"))
    assert "what they say of other videos" in str(permuted.summary().facts)
    assert "mode sum" in str(plain.summary().facts)


def test_a_plan_writes_nothing(videos, teachers, tmp_path):
    plan = plan_distill(settings(videos, tmp_path / "run", students=(SVT, VIT), teachers=teachers))
    assert not (tmp_path / "run").exists()
    assert (plan.num_train, plan.num_steps, plan.num_live) == (6, 4, 0)
    assert plan.students == ("svt-tiny", "timm-test_vit")
    assert "0 of 3 are shown clips" in str(plan.summary().facts)


def test_students_of_different_lengths_are_a_sentence(videos, tmp_path):
    network = StudentSettings(backbone="r21d-tiny", input_size=64)
    asked = settings(videos, tmp_path / "run", students=(SVT, network), kd_weight=0.0, clips=FinetuneClipSettings())
    tunings = {each.folder: asked.as_finetuning(each) for each in asked.students}
    with pytest.raises(ConfigError, match=r"take different numbers of frames \(svt-tiny 8, r21d-tiny 16\)"):
        build_students(tunings, num_classes=2, seed=0, device=torch.device("cpu"))


def test_words_of_the_command_line(pair):
    def lay(data):
        return dict(data)

    out, _ = pair
    made = shorthand.distill({}, {"student": ["r21d", "svt-s=own.pth", str(out / "svt-tiny")], "flip": False}, lay)
    assert made["students"][:2] == [{"backbone": "r21d"}, {"backbone": "svt-s", "weights": "own.pth"}]
    assert made["students"][2]["weights"] == str(out / "svt-tiny/seed-0/classifier.safetensors")
    assert made["clips"] == {"flip_probability": 0.0}
    with pytest.raises(ConfigError, match="no student is given"):
        shorthand.distill({}, {}, lay)
    assert np.isclose(DistillSettings(source="a", students=made["students"], teachers=("b",)).temperature, 4)
