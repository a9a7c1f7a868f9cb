"""What a command imports before it has something to do: by modules, since times depend on the machine."""

import json
import subprocess
import sys

import pytest

from featcache.testing.stores import StorePlan, make_record, write_store

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "sklearn", "pandas", "matplotlib", "skimage")
CODE = """
import contextlib, io, json, os, sys
from featcache.cli.main import main
for line in json.loads(sys.argv[1]):
    if os.fork():  # a copy of this process for each line, which has imported no more than the entry point does
        os.wait()
        continue
    sys.argv = ["featcache", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    heavy = [name for name in HEAVY if name in sys.modules]
    print(json.dumps([line, [code, out.getvalue(), " ".join(err.getvalue().split()), heavy]]), flush=True)
    os._exit(0)
"""
COMPUTE_NOTHING = [
    "--help",
    "probe --help",
    "probe knn --help",
    "train --help",
    "train svt --help",
    "figure --help",
    "audit leaks --help",
    "quickstart --help",
    "backbones",
    "datasets",
    "info store",
    "probe linear store --print-config",
]
MISSPELT = [
    ("extract nosuch -b clip-l14 -o s", "nosuch does not exist; give a folder of videos"),
    ("extract nosuch -b i3d -o s", "nosuch does not exist; give a folder of videos"),
    ("extract videos -b clip-l41 -o s", "unknown backbone 'clip-l41'; did you mean 'clip-l14'?"),
    ("extract videos -b clip-l4 -o s", "unknown backbone 'clip-l4'; did you mean 'clip-l14'?"),
    ("plan videos -b clip-l14+dinov2-l41 -o s", "did you mean 'dinov2-l14'?"),
    ("plan videos -b clip-l14+dinov2-m14 -o s", "unknown backbone 'dinov2-m14'; did you mean 'dinov2-s14'?"),
    ("extract --dataset ucf11 --root videos -b clip-l14 -o s", "did you mean 'ucf101'?"),
    ("extract --dataset ucf102 --root videos -b i3d -o s", "unknown data set 'ucf102'; did you mean 'ucf101'?"),
    ("scan --dataset ucf102 --root videos -o s.parquet", "unknown data set 'ucf102'; did you mean 'ucf101'?"),
    ("extract videos -b clip-l14 -o s --set sampling.num_clip=3", "did you mean 'num_clips'?"),
    ("extract videos -b i3d -o s --set sampling.decoder=pyaw", "unknown decoder 'pyaw'; did you mean 'pyav'?"),
    ("probe knn store --label nosuch", "unknown label column 'nosuch'"),
    ("probe knn store --set knn.temperatur=1", "did you mean 'temperature'?"),
    ("train scale store --set training.epoch=3", "did you mean 'epochs'?"),
    ("train finetune videos -b svt-b --set clips.num_frame=3", "did you mean 'num_frames'?"),
    ("audit leaks rotne", "unknown pretext task 'rotne'; did you mean 'rotnet'?"),
    ("search nosuch --text cat", "nosuch is not a featcache store"),
    ("run configs/quickstart.yaml --set motion.num_frame=9", "did you mean 'num_frames'?"),
    ("run configs/scale/motion.yaml --set pretraining.heads.hiden=9", "did you mean 'hidden'?"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, stdout, stderr and heavy modules of each command, beside a store and an empty folder of videos."""
    root = tmp_path_factory.mktemp("startup")
    write_store(root / "store", StorePlan(records={"clip": make_record((4,))}, num_videos=4))
    (root / "videos").mkdir()
    lines = [*COMPUTE_NOTHING, *(line for line, _ in MISSPELT)]
    command = [sys.executable, "-c", f"HEAVY = {HEAVY!r}{CODE}", json.dumps(lines)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=root, check=True)
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("line", COMPUTE_NOTHING)
def test_what_computes_nothing_imports_nothing_heavy(outcomes, line):
    code, output, said, heavy = outcomes[line]
    assert (code, heavy) == (0, []), said
    assert output


@pytest.mark.parametrize(("line", "sentence"), MISSPELT)
def test_a_misspelt_name_is_told_before_anything_heavy_is_imported(outcomes, line, sentence):
    code, _, said, heavy = outcomes[line]
    assert (code, heavy) == (1, []), said
    assert sentence in said
