"""docs/adding-a-method.md, followed to the letter."""

import json
import sys

import pytest

from featcache.testing.pretext import CHECKS, PretextTests
from featcache.testing.videos import write_video
from tests.docs import pages

PAGE = "adding-a-method.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = pages.install(PAGE, tmp_path_factory.mktemp("task"))
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    del sys.modules["labtasks"]


def test_it_is_short():
    assert len(pages.files_of(PAGE)["labtasks.py"].splitlines()) <= 60


def test_the_suite_of_the_page_passes(site):
    source: dict[str, type[PretextTests]] = {}
    exec(pages.files_of(PAGE)["test_labtasks.py"], source)  # type: ignore[arg-type]
    suite = source["TestMine"]()
    for check in CHECKS:
        suite.test_conforms("arrow", check)


def test_the_commands_of_the_page_train_it(site, tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=12 + number)
    (tmp_path / "pretext.yaml").write_text(pages.files_of(PAGE)["pretext.yaml"], encoding="utf-8")
    commands = pages.commands_of(PAGE)
    assert len(commands) == 1
    done = pages.run(site, tmp_path, *commands, "featcache run pretext.yaml")
    assert done.returncode == 0, done.stderr
    for name, stride in (("arrow", 2), ("arrow-3", 3)):
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        assert (result["task"], result["num_videos"]) == ("arrow", 3)
        assert f"--backbone svt-tiny --weights {result['weights']['0']}" in result["next_command"]
        assert (tmp_path / result["weights"]["0"]).exists()
        assert f"stride: {stride}" in (tmp_path / "runs" / name / "config.yaml").read_text()
    assert "arrow, last epoch" in done.stdout
