"""The runner of seeds: what it writes, says and refuses, with a toy of one weight."""

import dataclasses
import json
from typing import Literal

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import nn

from featcache.config import Aside, Settings
from featcache.errors import RecipeMismatchError
from featcache.summary import Summary
from featcache.training.kept import NetworkFile
from featcache.training.loop import StepReport
from featcache.training.objective import Loss
from featcache.training.seeds import last_epochs, open_runs, result_dict
from featcache.training.settings import TrainingSettings

LOOP = TrainingSettings(epochs=2, device="cpu", threads=1, tensorboard=False, seeds=(0, 3))


class ToySettings(Settings):
    command: Literal["toy"] = "toy"
    size: int = 1
    training: TrainingSettings = LOOP
    out: Aside[str | None] = None


class Toy:
    num_batches, num_items = 3, 6

    def __init__(self, seed):
        self.module = nn.Linear(1, 1)
        nn.init.constant_(self.module.weight, float(seed))

    def parts(self, epoch, batch):
        return [torch.ones(2, 1)]

    def loss(self, part):
        return Loss(total=self.module(part).square().mean(), metrics={"weight": self.module.weight.detach().sum()})

    def after_step(self, progress):
        pass


@dataclasses.dataclass(frozen=True)
class ToyResult:
    seeds: dict
    numbers: tuple = (1, 2)

    def to_dict(self):
        return result_dict(self)

    def summary(self):
        return Summary(tables=(last_epochs("toy", self.seeds, {"weight": "w", "absent": "a"}),))


def trained(folder, said, **changes):
    settings = ToySettings(out=str(folder), **changes)
    runs = open_runs(
        settings,
        settings.training,
        name="toy",
        of="none",
        out=settings.out,
        items="things",
        network="net.safetensors",
        on_stage=said,
    )
    for seed in settings.training.seeds:
        runs.train(
            Toy(seed),
            seed=seed,
            identity=runs.identity(seed, {"data": "d"}),
            facts={"method": "toy"},
            network=NetworkFile(child="", facts={"backbone": "toy"}),
        )
    assert runs.weights == {seed: f"{folder}/seed-{seed}/net.safetensors" for seed in settings.training.seeds}
    return runs.finish(ToyResult(runs.lines))


def test_no_loss_is_shown_before_one_is_known():
    said = []
    settings = ToySettings()
    runs = open_runs(
        settings, LOOP, name="toy", of="none", out="unused", items="things", on_stage=lambda *each: said.append(each)
    )
    step = StepReport(epoch=0.5, epochs=2, loss=None, items_per_second=7.0, wait_share=0.25)
    runs.reporting(3)(step)
    runs.reporting(3)(dataclasses.replace(step, loss=1.5))
    assert [note for *_, note in said] == ["7 things/s wait 25%", "loss 1.500 7 things/s wait 25%"]


def test_each_seed_has_its_folder_and_stage_and_all_is_written(tmp_path):
    stages = []
    result = trained(tmp_path / "run", lambda *figures: stages.append(figures))
    assert [stage for stage, *_ in stages] == ["seed 0"] * 6 + ["seed 3"] * 6
    assert [done for _, done, *_ in stages[:6]] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert stages[0][2] == 2
    note = stages[0][3].split()
    assert (note[0], note[3], note[4]) == ("loss", "things/s", "wait")
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["size"] == 1
    document = json.loads((tmp_path / "run/result.json").read_text())
    assert document["seeds"].keys() == {"0", "3"}
    assert document["seeds"]["3"]["weight"] == result.seeds[3]["weight"] > 1
    with safe_open(tmp_path / "run/seed-3/net.safetensors", "pt") as file:
        assert json.loads(file.metadata()["featcache"]) == {"backbone": "toy", "seed": 3}
    (table,) = result.summary().tables
    assert table.columns == ("seed", "w", "a")
    assert table.rows[1] == ("3", f"{result.seeds[3]['weight']:.3g}", "")


def test_what_is_there_is_left_and_another_run_is_refused_by_name(tmp_path):
    first = trained(tmp_path, lambda *figures: None)
    again = trained(tmp_path, lambda *figures: pytest.fail("a step was done"))
    assert again == first
    with pytest.raises(RecipeMismatchError, match="a run with size 1, which is 2 here"):
        trained(tmp_path, lambda *figures: None, size=2)


def test_nothing_is_written_before_the_first_seed_trains(tmp_path):
    settings = ToySettings(out=str(tmp_path / "run"))
    open_runs(settings, settings.training, name="toy", of="none", out=settings.out)
    assert not (tmp_path / "run").exists()
