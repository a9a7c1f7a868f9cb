"""What the benchmarks of SCALE count and decide, against torch's own counter and by hand."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from featcache.evaluation.data import make_data
from featcache.loaders.clip_sets import with_coordinates

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Modules of the folder of scripts, by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module


def test_products_are_those_that_a_step_does(benchmark):
    products, steps = benchmark("matrix_products"), benchmark("scale_steps")
    settings = steps.scale_settings(batch=3, threads=1)
    objective = steps.scale_objective(steps.made_up_sets(5, width=40), settings, device="cpu")
    (part,) = objective.parts(0, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        objective.loss(part).total.backward()
    num_masked, num_clips, space = len(part.masked_at), 48, settings.heads.width
    counted = counter.get_total_flops() + 2 * space * (num_masked * num_clips + 2 * 3 * 3)  # addmm_ is unknown to it
    assert num_masked
    assert products.operations(products.step_products(settings, width_in=40, num_masked=num_masked)) == counted


def test_a_product_is_timed_at_its_own_shape_and_layout(benchmark):
    products = benchmark("matrix_products")
    for form, strides in (("nn", (4, 1)), ("nt", (1, 4)), ("tn", (4, 1))):
        product = products.Product(form=form, rows=3, inner=4 if form == "nt" else 5, columns=4, count=2)
        left, right, result = products.factors(product, dtype=torch.float32, device="cpu")
        assert torch.matmul(left, right).shape == result.shape == (2, 3, 4)
        assert right.stride()[1:] == strides
        assert left.stride()[1:] == ((1, 3) if form == "tn" else (product.inner, 1))
        assert products.seconds_of([product, product], dtype=torch.float32, device="cpu", repeats=1) > 0


def test_cells_that_are_too_much_are_left_out(benchmark):
    too_much = benchmark("scale_table1").too_much
    cell = {"seconds": 10.0, "peak_bytes": 3e9, "base_bytes": 1e9}
    assert too_much(None, 8, budget=1, memory=1) is None
    assert too_much((2, cell), 8, budget=80, memory=8e9) is None
    assert too_much((2, cell), 8, budget=79, memory=8e9) == "left out: about 40 s per step"
    assert too_much((2, cell), 8, budget=80, memory=7.9e9) == "left out: up to 8 GB"


def test_a_cell_out_of_memory_is_a_text(benchmark, capsys):
    cells = benchmark("cells")

    def work():
        raise torch.OutOfMemoryError("CUDA out of memory")

    cells.answer(work)
    assert '"problem": "out of memory"' in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="shape"):
        cells.answer(lambda: torch.zeros(2).view(3))


def test_the_kernels_kill_is_a_cell_too(benchmark, tmp_path):
    cells = benchmark("cells")
    script = tmp_path / "cell.py"
    script.write_text("import os, sys\nprint('{\"seconds\": 1}') if sys.argv[1] == 'ok' else os.kill(os.getpid(), 9)\n")
    assert cells.measure(str(script), ["ok"]) == {"seconds": 1}
    assert cells.measure(str(script), ["die"]) == {"problem": "out of memory"}


def test_steps_are_counted_within_the_budget(benchmark):
    cells = benchmark("cells")
    done = []
    assert cells.seconds_a_step(lambda: done.append(0), budget_seconds=-1.0, device="cpu") >= 0
    assert len(done) == 1  # a first step beyond the budget is the only one
    cells.seconds_a_step(lambda: done.append(0), budget_seconds=1.0, device="cpu")
    assert len(done) == 3 + cells.MAX_STEPS


def test_the_sparse_and_the_dense_form_differ_in_tokens_alone(benchmark):
    pixels = benchmark("pixel_methods")
    with torch.device("meta"):
        encoder = pixels.MocoEncoder()
        views = torch.empty(2, 3, pixels.NUM_FRAMES, pixels.SIZE, pixels.SIZE)
        kept = torch.zeros(2, 157, dtype=torch.int64)
        assert encoder(views, None).shape == encoder(views, kept).shape == (2, pixels.MOCO_OUT)
    assert sum(parameter.numel() for parameter in encoder.blocks.parameters()) == 12 * 7_087_872


def test_student_s_interval(benchmark):
    t_interval = benchmark("scale_positions").t_interval
    assert t_interval([3.0]) == (3.0, 3.0, 3.0)
    mean, low, high = t_interval([1.0, 2.0, 3.0])  # t(0.975; 2) = 4.3027, sd 1
    assert (mean, low, high) == (2.0, pytest.approx(2 - 4.3026527 / 3**0.5), pytest.approx(2 + 4.3026527 / 3**0.5))


def test_the_control_depends_on_places(benchmark):
    sets = benchmark("scale_positions").control_sets(40, seed=3)
    assert sets.num_clips.tolist() == [16] * 40
    assert 0 <= float(sets.positions.min()) < float(sets.positions.max()) <= 1
    assert bool((sets.positions[:, [0, 1, 4]] < sets.positions[:, [2, 3, 5]]).all())
    vectors = sets.features.view(40, 16, -1)
    within = (vectors - vectors.mean(dim=1, keepdim=True)).flatten(0, 1)  # what its video shows is gone
    places = sets.positions @ torch.randn(6, 600, generator=torch.Generator().manual_seed(0)) * 4
    waves = torch.cat([places.sin(), places.cos()], dim=1)
    waves = (waves.view(40, 16, -1) - waves.view(40, 16, -1).mean(dim=1, keepdim=True)).flatten(0, 1)

    def explained(inputs):
        ridge = inputs[:480].T @ inputs[:480] + 10 * torch.eye(inputs.shape[1])
        fitted = torch.linalg.solve(ridge, inputs[:480].T @ within[:480])
        return float(1 - (within[480:] - inputs[480:] @ fitted).square().sum() / within[480:].square().sum())

    shuffled = waves[torch.randperm(len(waves), generator=torch.Generator().manual_seed(1))]
    assert explained(waves) > 0.3
    assert explained(shuffled) < 0.05


def test_a_probe_s_coordinates_are_those_of_pre_training(benchmark):
    positions = benchmark("scale_positions")
    sets = positions.control_sets(3, seed=0, num_clips=4)
    data = make_data(
        sets.features.numpy(),
        row_video=[0] * 4 + [1] * 4 + [2] * 4,
        videos=sets.video_ids,
        labels=["a", "b", "a"],
        positions={"box6": sets.positions.numpy()},
    )
    table = sets.positions.numpy()
    assert (positions.with_probe_coordinates(data, "true").positions["box6"] == table).all()
    assert not positions.with_probe_coordinates(data, "zero").positions["box6"].any()
    shuffled = positions.with_probe_coordinates(data, "shuffled").positions["box6"]
    assert (shuffled == with_coordinates(sets, "shuffled").positions.numpy()).all()
    assert (shuffled != table).any()
    for video in range(3):
        rows = slice(4 * video, 4 * video + 4)
        assert sorted(shuffled[rows, 0]) == sorted(table[rows, 0])
