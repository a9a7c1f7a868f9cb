"""A misspelt name is told before anything that takes seconds is imported."""

import subprocess
import sys

import pytest

RUN = """
import sys
from featcache.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print([name for name in ("torch", "timm", "transformers", "sklearn") if name in sys.modules], code)
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("extract . -b clip-l41 -o out", "unknown backbone 'clip-l41'; did you mean 'clip-l14'?"),
        ("plan . -b clip-l14+dinov2-m14 -o out", "unknown backbone 'dinov2-m14'; did you mean 'dinov2-s14'?"),
        ("extract nowhere -b i3d -o out", "nowhere does not exist; give a folder of videos"),
        ("extract --dataset ucf102 --root . -b i3d -o out", "unknown data set 'ucf102'; did you mean 'ucf101'?"),
        ("extract . -b i3d -o out --set sampling.decoder=pyaw", "unknown decoder 'pyaw'; did you mean 'pyav'?"),
        ("scan --dataset ucf102 --root . -o out.parquet", "unknown data set 'ucf102'; did you mean 'ucf101'?"),
    ],
)
def test_it_is_told_without_torch(words, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert message in " ".join(done.stderr.split())
    assert done.stdout == "[] 1\n"
