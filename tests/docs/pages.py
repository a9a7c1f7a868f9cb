"""Following a page of the documentation to the letter: its files are written, its package is built and installed."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w*\n(.*?)```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^    (featcache .*?[^\\])$", re.DOTALL | re.MULTILINE)


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows, by path."""
    return dict(_FILE.findall((DOCS / page).read_text(encoding="utf-8")))


def commands_of(page: str) -> list[str]:
    """The commands of featcache that a page shows."""
    return [re.sub(r"\\\n\s+", "", command) for command in _COMMAND.findall((DOCS / page).read_text(encoding="utf-8"))]


def install(page: str, folder: Path) -> Path:
    """Write the package of a page, build its wheel as pip does, and unpack that; returns where.

    Args:
        page: Name of the page.
        folder: Empty; the files of the page are in its ``project``, the package in its ``site``.
    """
    project, site = folder / "project", folder / "site"
    for path, text in files_of(page).items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text, encoding="utf-8")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(folder)], cwd=project, check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: Path, folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands of featcache one after another in a new process that finds the package."""
    code = (
        "import shlex, sys\n"
        "from featcache.cli.main import app, main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv = shlex.split(command)\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        if end.code:\n"
        "            raise\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *commands],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
