"""How many videos failed: exit codes, the last line, JSON, and what a probe says then."""

import json
import shutil

import pytest

from featcache.data.motion import MotionSettings, make_motion_set
from featcache.errors import ConfigError
from featcache.extract.settings import failures_allowed
from tests.cli.helpers import run_here

QUICK = (
    *("--backbone", "timm/tf_efficientnet_lite0", "--weights", "random", "--set", "features.0.input_size=64"),
    *("--clips", "1", "--frames", "2", "--device", "cpu", "--set", "runtime.threads=1"),
)


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = run_here(*arguments, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path):
    """Two sound videos and two that are none, in class folders of their own."""
    settings = MotionSettings(
        size=64, num_unseen_pictures=21, train_per_picture_motion=1, test_unseen_per_picture_motion=0
    )
    listing = make_motion_set(tmp_path / "motion", settings)
    for name in ("sound", "broken"):
        (tmp_path / "videos" / name).mkdir(parents=True)
    for number, row in enumerate(listing.read_text().splitlines()[:2]):
        shutil.copy(listing.parent / json.loads(row)["path"], tmp_path / "videos" / "sound" / f"{number}.mp4")
        (tmp_path / "videos" / "broken" / f"{number}.mp4").write_bytes(b"no video" * 40)
    return tmp_path / "videos"


def test_no_video_at_all_is_exit_3_also_on_resume(folder, tmp_path):
    code, _, said = run("scan", folder / "broken", "--out", tmp_path / "broken.parquet")
    assert (code, said[:40]) == (3, "error: none of the 2 videos of " + str(folder)[:9])
    command = ("extract", tmp_path / "broken.parquet", *QUICK, "--out", tmp_path / "store")
    for flags in ([], ["--json"]):
        code, printed, said = run(*command, *flags)
        assert code == 3
        assert said.startswith("error: nothing was extracted: all 2 videos of ")
        assert "'0.mp4' (undecodable: " in said
    result = json.loads(printed)
    assert (result["videos_ok"], result["videos_failed"]) == (0, 2)
    assert said == f"error: {result['error']}\n"
    code, _, said = run("probe", "knn", tmp_path / "store")
    assert code == 3
    assert said.startswith("error: nothing was extracted into ")
    assert "label" not in said


def test_some_failures_are_exit_0_with_the_count_on_the_last_line(folder, tmp_path):
    run("scan", folder, "--out", tmp_path / "videos.parquet")
    command = ("extract", tmp_path / "videos.parquet", *QUICK, "--out", tmp_path / "store")
    code, printed, _ = run(*command)
    assert (code, printed.splitlines()[-1]) == (0, "2 of 4 videos failed: 2 undecodable")
    for max_failed, expected in (("1", 1), ("49.9%", 1), ("50%", 0)):
        code, printed, said = run(*command, "--max-failed", max_failed, "--json")
        assert code == expected, max_failed
        result = json.loads(printed)
        assert (result["videos_failed"], result["videos_total"]) == (2, 4)
        sentence = f"2 of 4 videos of {tmp_path / 'store'} failed, and max_failed {max_failed} allows 1; "
        assert said.startswith(f"error: {sentence}") if expected else said == ""
        assert result["error"] == (said.removeprefix("error: ").rstrip("\n") or None)
    code, printed, _ = run("info", tmp_path / "store")
    header = next(line for line in printed.splitlines() if "videos ok" in line)
    assert header.index("failed") < header.index("pending")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("0", 0), ("7", 7), (7, 7), ("5%", 10), ("0.5%", 1), ("0%", 0), ("100%", 200), ("33.3%", 66), (None, None)],
)
def test_failures_are_counted_or_a_share(text, allowed) -> None:
    assert failures_allowed(text, num_videos=200) == allowed


@pytest.mark.parametrize("text", ["five", "-1", "5 %", "1e3", "", "nan%", "5%%", "101%", "\u0665", -1])
def test_what_is_neither_a_number_nor_a_share_is_refused(text) -> None:
    with pytest.raises(ConfigError, match=r"max_failed is .*; give a number of videos, e.g. 10, or a share, e.g. 5%"):
        failures_allowed(text, num_videos=200)
