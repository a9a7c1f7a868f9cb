"""A probe imports what it runs, and no other probe."""

import subprocess
import sys

CODE = """
import sys
import numpy as np
from featcache.evaluation.data import make_data
from featcache.evaluation.run import run_probe

labels = ["a", "b"] * 10
data = make_data(
    np.eye(2, 4)[[int(label == "b") for label in labels]].astype(np.float32),
    row_video=np.arange(20),
    videos=[f"video{index}" for index in range(20)],
    labels=labels,
    splits=["train", "train", "test", "test"] * 5,
)
assert run_probe("knn", data).splits["test"].metrics["top1"].value == 1
others = ["linear", "mlp", "ridge", "sets", "clip_probe"]
heavy = ["torch._dynamo", "sklearn", "torchvision", "timm", *(f"featcache.evaluation.{name}" for name in others)]
print([name for name in heavy if name in sys.modules])
"""


def test_nearest_neighbours_import_no_other_probe():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "[]\n"
