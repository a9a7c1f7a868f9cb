"""Means over spans of steps, and what is known of the loss before one is read."""

from types import SimpleNamespace

import pytest
import torch

from featcache.training.meter import DivergedError, Meter
from featcache.training.objective import Loss
from featcache.training.world import ALONE

OTHER = torch.device("meta")
"""Stands for a GPU, whose values nobody reads at every step."""


def metered(device, losses):
    meter = Meter(device, ALONE, items_a_step=4)
    seen = []
    for loss in losses:
        meter.add(Loss(total=torch.tensor(loss)), num_parts=1, is_logged=False)
        meter.end_step()
        seen.append(meter.last_loss)
    return meter, seen


def test_on_a_cpu_the_loss_of_the_epoch_so_far_is_known():
    meter, seen = metered(torch.device("cpu"), [4.0, 2.0])
    assert seen == [4.0, 3.0]
    assert meter.end_recent()["loss"] == meter.end_epoch()["loss"] == meter.last_loss == 3.0
    assert metered(torch.device("cpu"), [])[0].last_loss is None


def test_elsewhere_the_last_loss_that_was_read_is_known():
    meter, seen = metered(OTHER, [4.0, 2.0])
    assert seen == [None, None]
    assert meter.end_recent()["loss"] == meter.last_loss == 3.0
    meter.add(Loss(total=torch.tensor(9.0)), num_parts=1, is_logged=False)
    assert meter.last_loss == 3.0
    assert meter.end_epoch()["loss"] == meter.last_loss == 5.0


def test_a_metric_that_is_computed_seldom_is_a_mean_over_its_own_batches():
    meter = Meter(torch.device("cpu"), ALONE, items_a_step=4)
    for number, is_logged in enumerate((False, True, False, True)):
        seldom = {"rank": lambda number=number: torch.tensor(10.0 * number)}
        loss = Loss(total=torch.tensor(1.0), metrics={"size": torch.tensor(float(number))}, seldom=seldom)
        meter.add(loss, num_parts=1, is_logged=is_logged)
        meter.end_step()
    line = meter.end_epoch()
    assert (line["size"], line["rank"]) == (1.5, 20.0)


def test_a_loss_that_was_not_finite_is_found_until_the_line_about_it(tmp_path):
    meter, _ = metered(torch.device("cpu"), [float("nan")])
    with pytest.raises(DivergedError, match="not finite by step 1"):
        meter.check_finite(step=1, folder=tmp_path)
    meter, _ = metered(torch.device("cpu"), [1.0])
    meter.check_finite(step=1, folder=tmp_path)


def test_time_that_is_left_out_does_not_lower_the_rates(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("featcache.training.meter.time", SimpleNamespace(monotonic=lambda: now[0]))
    meter, _ = metered(torch.device("cpu"), [1.0, 1.0])
    meter.waited(1.0)
    now[0] = 4.0
    with meter.leaving_out():
        now[0] = 3600.0
    assert meter.rates() == {"items_per_second": 2.0, "wait_share": 0.25}
    assert meter.end_recent() == {"loss": 1.0, "items_per_second": 2.0, "wait_share": 0.25}
    now[0] += 8.0
    meter.end_step()
    assert meter.rates()["items_per_second"] == 1.0  # 12 items in 12 seconds
    assert meter.recent.rates(items_a_step=4)["items_per_second"] == 0.5
