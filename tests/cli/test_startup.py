"""What a command imports before it has something to do: by modules, since times depend on the machine."""

import json
import subprocess
import sys

import pytest

from featcache.testing.stores import StorePlan, make_record, write_store

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "sklearn", "pandas", "matplotlib", "skimage")
CODE = """
import json, sys
from typer.testing import CliRunner
from featcache.cli.main import app
done = CliRunner().invoke(app, json.loads(sys.argv[1]))
heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps([done.exit_code, str(done.exception), done.output, heavy]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store and an empty folder of videos."""
    root = tmp_path_factory.mktemp("startup")
    write_store(root / "store", StorePlan(records={"clip": make_record((4,))}, num_videos=4))
    (root / "videos").mkdir()
    return root


def run(place, line):
    """Exit code, exception, output and heavy modules of a command in a process of its own."""
    command = [sys.executable, "-c", CODE, json.dumps(line.split()), json.dumps(HEAVY)]
    return json.loads(subprocess.check_output(command, text=True, cwd=place))


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "probe --help",
        "probe knn --help",
        "train --help",
        "train svt --help",
        "figure --help",
        "quickstart --help",
        "backbones",
        "datasets",
        "info store",
        "probe linear store --print-config",
    ],
)
def test_what_computes_nothing_imports_nothing_heavy(place, line):
    code, exception, output, heavy = run(place, line)
    assert (code, heavy) == (0, []), exception
    assert output


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("extract nosuch -b clip-l14 -o s", "nosuch does not exist"),
        ("extract videos -b clip-l4 -o s", "did you mean 'clip-l14'?"),
        ("plan videos -b clip-l14+dinov2-l41 -o s", "did you mean 'dinov2-l14'?"),
        ("extract --dataset ucf11 --root videos -b clip-l14 -o s", "did you mean 'ucf101'?"),
        ("extract videos -b clip-l14 -o s --set sampling.num_clip=3", "did you mean 'num_clips'?"),
        ("probe knn store --label nosuch", "unknown label column 'nosuch'"),
        ("probe knn store --set knn.temperatur=1", "did you mean 'temperature'?"),
        ("train scale store --set training.epoch=3", "did you mean 'epochs'?"),
        ("train finetune videos -b svt-b --set clips.num_frame=3", "did you mean 'num_frames'?"),
        ("search nosuch --text cat", "nosuch is not a featcache store"),
        ("run configs/quickstart.yaml --set motion.num_frame=9", "did you mean 'num_frames'?"),
        ("run configs/scale/motion.yaml --set pretraining.heads.hiden=9", "did you mean 'hidden'?"),
    ],
)
def test_a_misspelt_name_is_told_before_anything_heavy_is_imported(place, line, sentence):
    code, exception, _, heavy = run(place, line)
    assert (code, heavy) == (1, []), exception
    assert sentence in exception
