"""What makes a run the same: every setting of every command that trains, its inputs by content, and the seed."""

import dataclasses
import itertools
import json
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic_core import to_jsonable_python

from featcache.commands.registry import command_names, settings_class
from featcache.config import Role, Settings, role_of
from featcache.errors import RecipeMismatchError
from featcache.files.sealed import seal
from featcache.methods.advise.settings import AdviseSettings, TmmFineTuneSettings
from featcache.methods.advise.tuning import fine_tune
from featcache.networks.settings import TmmSettings
from featcache.training.checkpoint import NAME, Checkpoint, read_checkpoint, write_checkpoint
from featcache.training.identity import Identity, identity_of
from tests.methods.advise.helpers import moving_bank

MINIMAL: dict[str, dict[str, Any]] = {
    "train-advise": {"bank": {"store": "s"}},
    "train-tmm": {"bank": {"store": "s"}},
    "train-r3d50": {"source": "videos"},
    "train-scale": {"sets": {"store": "s"}},
    "train-svt": {"source": "videos"},
    "train-finetune": {"source": "videos", "backbone": "svt-tiny"},
    "train-pretext": {"source": "videos", "backbone": "svt-tiny", "task": {"name": "rotnet"}},
    "train-distill": {
        "source": "videos",
        "students": [{"backbone": "svt-tiny"}, {"backbone": "r21d-tiny"}],
        "teachers": ["t.npz"],
    },
}
CONTENTS = {"bank.store": "1", "sets.store": "1", "videos": "2", "weights": "3", "init": "4", "init.weights": "5"}
# What else has to change where a leaf's checks forbid any other value by itself; alternatives.
TOGETHER: dict[str, tuple[dict[str, Any], ...]] = {
    "init.start": ({"init.weights": "dino.pth"},),
    "init.weights": ({"init.start": "image"},),
    "compare_scratch": ({"init": "runs/advise"},),
    "clips.target_fps": ({"clips.frame_stride": 2},),
    "training.schedule.kind": ({"training.schedule.step_fractions": [0.5]}, {"training.schedule.step_fractions": []}),
    "training.schedule.step_fractions": ({"training.schedule.kind": "step"},),
    "training.optimiser.nesterov": ({"training.optimiser.name": "sgd"}, {"training.optimiser.nesterov": False}),
    "training.clip_norm": ({"training.clip_each_norm": None},),
    "views.sampler": ({"views.global_frames": [8, 8]},),
    "dataset": ({"source": None, "root": "data"},),
    "root": ({"source": None, "dataset": "ucf101"},),
    "source": ({"dataset": "ucf101", "root": "data"},),
}


# Leaves that a command allows no other value.
FIXED = {("train-svt", "training.ema_decay"), ("train-finetune", "training.ema_decay")}
FIXED |= {("train-distill", f"training.{name}") for name in ("ema_decay", "keep_epochs")}
FIXED |= {("train-pretext", "training.ema_decay"), ("train-pretext", "task.name")}


def fields_of(settings: Settings, prefix: str = "") -> list[tuple[str, Role | None, Any, Any]]:
    """Name, role, annotation and value of each field that holds no further settings."""
    found = []
    for name, about in type(settings).model_fields.items():
        value = getattr(settings, name)
        role = role_of(about)
        if isinstance(value, Settings) and role is None:
            found += fields_of(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", role, about.annotation, value))
    return found


def candidates(annotation: Any, value: Any) -> list[Any]:
    """Other values that a leaf may take."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 2, value / 2, value / 4 + 1e-3, 0.5, 1.0, 2, 16, 32, 256]
    options = [
        option
        for part in (annotation, *get_args(annotation))
        if get_origin(part) is Literal
        for option in get_args(part)
    ]
    if options and not isinstance(value, tuple):
        return [option for option in options if option != value]
    if isinstance(value, str):
        return ["another", "r2plus1d_18", "a video of {}"]
    plain = to_jsonable_python(value)
    if plain == {}:  # factors by name
        return [{"head.": 10.0}]
    if isinstance(plain, dict):  # a network's or a colour's settings: the first number changes
        return [
            {**plain, key: other}
            for key, leaf in plain.items()
            if isinstance(leaf, int | float)
            for other in candidates(None, leaf)
        ]
    if isinstance(plain, list):
        halves = [each * 0.5 for each in plain if isinstance(each, int | float)]
        return [plain[:-1], [*plain, *plain[-1:]], halves, [0.5, 0.8], [0.5, 0.5, 0.5], [1.0], ["g2g"], ["another"]]
    return [1, 2.0, 0.5, "another", ["another"], [0.4, 0.4, 0.4], {"hidden": 8}, {"brightness": 0.2}]


def changed(kind: type[Settings], base: dict[str, Any], name: str, annotation: Any, value: Any) -> Settings:
    """Settings that differ in one leaf, and in those that have to go with it."""
    for candidate, beside in itertools.product(candidates(annotation, value), ({}, *TOGETHER.get(name, ()))):
        document = json.loads(json.dumps(base))
        for key, other in {name: candidate, **beside}.items():
            *parents, last = key.split(".")
            node = document
            for parent in parents:
                node = node[parent]
            node[last] = other
        try:
            settings = kind.model_validate(document)
        except ValueError:
            continue
        if settings.model_dump(mode="json") != base:
            return settings
    raise AssertionError(f"no other value of {name} ({value!r}) is allowed; add one to the test")


@pytest.mark.parametrize("command", command_names("train-"))
def test_each_setting_counts_or_does_not(command):
    """A new command or field is tested without being told; what counts is named in the refusal."""
    kind = settings_class(command)
    settings = kind.model_validate(MINIMAL[command])
    base = settings.model_dump(mode="json")
    mine = identity_of(settings, inputs=CONTENTS, seed=0)
    tried = 0
    for name, role, annotation, value in fields_of(settings):
        if name == "command" or (command, name) in FIXED:
            continue
        other = identity_of(changed(kind, base, name, annotation, value), inputs=CONTENTS, seed=0)
        differences = {key for key in {*mine.values, *other.values} if mine.values.get(key) != other.values.get(key)}
        beside = {key for each in TOGETHER.get(name, ()) for key in each}
        allowed = {name, *beside}
        if role is None:
            assert differences, name
            assert all(any(key == each or key.startswith(f"{each}.") for each in allowed) for key in differences), name
            assert any(each in mine.difference(other.values) for each in allowed)
            assert mine.digest != other.digest
        else:
            assert differences <= beside, name
        tried += 1
    assert tried >= 25
    for content in CONTENTS:
        exchanged = identity_of(settings, inputs={**CONTENTS, content: "another"}, seed=0)
        assert f"content of {content}" in (mine.difference(exchanged.values) or "")
    assert "seed" in (mine.difference(identity_of(settings, inputs=CONTENTS, seed=1).values) or "")


def test_an_input_without_its_content_is_a_mistake_of_the_method():
    settings = AdviseSettings.model_validate(MINIMAL["train-advise"])
    with pytest.raises(AssertionError, match=r"content of bank\.store"):
        identity_of(settings, inputs={}, seed=0)


def test_a_setting_that_did_not_exist_then_has_its_default():
    settings = AdviseSettings.model_validate(MINIMAL["train-advise"])
    mine = identity_of(settings, inputs=CONTENTS, seed=0)
    earlier = {key: value for key, value in mine.values.items() if key != "training.clip_norm"}
    assert mine.difference(earlier) is None
    clipped = settings.model_copy(update={"training": settings.training.model_copy(update={"clip_norm": 1.0})})
    assert identity_of(clipped, inputs=CONTENTS, seed=0).difference(earlier) == (
        "with training.clip_norm None, which is 1.0 here"
    )
    assert mine.difference({**mine.values, "gone": 3}) == "with gone 3, which is not given here"


def test_a_new_setting_of_a_module_that_was_given_has_its_default_too():
    settings = TmmFineTuneSettings.model_validate({"bank": {"store": "s"}, "tmm": {"kind": "skip"}})
    mine = identity_of(settings, inputs=CONTENTS, seed=0)
    assert mine.values["tmm.heads"] is None
    assert mine.difference({key: value for key, value in mine.values.items() if key != "tmm.heads"}) is None
    other = TmmFineTuneSettings.model_validate({"bank": {"store": "s"}, "tmm": {"kind": "swin"}})
    assert "tmm.kind" in str(identity_of(other, inputs=CONTENTS, seed=0).difference(mine.values))


def test_a_checkpoint_of_version_1_is_refused_by_name(tmp_path):
    write_checkpoint(tmp_path, Checkpoint(step=1, identity={"a": 1}, tensors={}, facts={}))
    document = json.loads((tmp_path / NAME).read_text())
    document.pop("checksum")
    (tmp_path / NAME).write_bytes(seal({**document, "version": 1, "identity": "0123456789abcdef"}))
    assert read_checkpoint(tmp_path).step == 1  # as weights it can still be read
    with pytest.raises(RecipeMismatchError, match="run of an earlier featcache, which kept no settings to compare"):
        read_checkpoint(tmp_path, identity=Identity(values={"a": 1}))


def test_a_module_that_was_trained_anew_in_its_folder_is_another_one(tmp_path):
    """The path of ``init`` stays the same, and what lies there does not."""
    bank = moving_bank()
    tmm = TmmSettings(hidden=8, out=16, num_blocks=1, head_hidden=16, temporal_kernel=3)
    training = {"epochs": 1, "tensorboard": False, "threads": 1, "schedule": {"warmup_fraction": 0}}
    first = {"bank": {"store": "s"}, "init": str(tmp_path / "init"), "num_frames": 4, "stride": 1, "training": training}
    settings = TmmFineTuneSettings.model_validate(first)
    write_pretrained(tmp_path / "init", tmm, bank, seed=0)
    tune(settings, bank, tmp_path / "out")
    tune(settings, bank, tmp_path / "out")  # taken up
    write_pretrained(tmp_path / "init", tmm, bank, seed=1)
    with pytest.raises(RecipeMismatchError, match="content of init"):
        tune(settings, bank, tmp_path / "out")


def write_pretrained(folder, tmm, bank, *, seed):
    from featcache.networks.tmm import TmmClassifier
    from featcache.training.generators import seeded_torch

    with seeded_torch(seed, "test"):
        module = TmmClassifier(tmm, width_in=bank.shape[2], grid=bank.shape[0], num_classes=4)
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    facts = {"method": "advise", "tmm": dataclasses.asdict(tmm), "width_in": bank.shape[2]}
    write_checkpoint(folder / "seed-0", Checkpoint(step=1, identity={}, tensors=tensors, facts=facts))


def tune(settings, bank, folder):
    import numpy as np

    from featcache.training.seeds import open_runs

    videos = np.arange(len(bank.video_ids))
    runs = open_runs(settings, settings.training, name="tmm", of="s", out=str(folder))
    fine_tune(settings, bank, runs=runs, videos=videos, labels=videos % 2, num_classes=2, seed=0)
