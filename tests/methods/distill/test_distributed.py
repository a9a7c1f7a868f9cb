"""Two processes distil as one does: AE-KD weighs the gradients of the whole batch in both."""

import pytest
import torch
from safetensors.torch import load_file

from featcache.methods.distill.run import distill
from featcache.training.logs import read_steps
from tests.methods.distill.shared_runs import STUDENTS, chosen, main, write_inputs
from tests.training.processes import together


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    write_inputs(tmp_path)
    distill(chosen(tmp_path, "one"))
    together(main, tmp_path)
    for one, two in zip(*(read_steps(tmp_path / name / "seed-0") for name in ("one", "two")), strict=True):
        for student in STUDENTS:
            for name in ("weight_0", "weight_1", "cross_entropy", "divergence"):
                key = f"{student.folder}.{name}"
                assert two[key] == pytest.approx(one[key], rel=1e-3), key
    for student in STUDENTS:
        mine, theirs = (
            load_file(tmp_path / name / student.folder / "seed-0/classifier.safetensors") for name in ("one", "two")
        )
        for name, tensor in mine.items():
            atol = 1e-3 if "running_" in name else 1e-5
            torch.testing.assert_close(
                theirs[name], tensor, rtol=1e-3, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )
