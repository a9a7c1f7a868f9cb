"""The quickstart as people run it: twice, after a kill, with other settings, in a folder of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, FeatcacheError
from featcache.shipped import load_pipeline

SMALL: dict[str, Any] = {
    "motion": {
        "size": 64,
        "num_unseen_pictures": 20,
        "train_per_picture_motion": 1,
        "test_seen_per_picture_motion": 1,
        "test_unseen_per_picture_motion": 0,
    },
    "extraction": {"runtime": {"device": "cpu", "threads": 1}},
    "linear": {"lrs": [0.01], "optimizers": ["sgd"], "batch_norms": [True], "seeds": [0], "epochs": 3},
    "probes": {"device": "cpu", "intervals": {"num_resamples": 50}},
    "temporal": {
        "tmm": {"hidden": 4, "out": 8, "num_blocks": 1, "temporal_kernel": 3, "head_hidden": 8},
        "training": {"epochs": 1, "tensorboard": False, "threads": 1},
    },
}
quickstart = load_pipeline("quickstart")
QuickstartSettings = quickstart.QuickstartSettings


def settings(out: Path, **changes: Any) -> Any:
    return parse(QuickstartSettings, {**SMALL, "out": str(out), **changes})


def test_killed_resumed_and_run_again(tmp_path: Path) -> None:
    out = tmp_path / "quickstart"

    def interrupt(stage: str, *figures: Any) -> None:
        if stage == "extract":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quickstart.run(settings(out), on_stage=interrupt)
    assert list((out / "videos").rglob("*.mp4"))

    first = quickstart.run(settings(out)).to_dict()
    assert first["extract"]["videos_ok"] == first["num_videos"] == 32
    assert not (out / "videos").exists()
    questions = {(row["label"], row["feature"], row["probe"], row["split"]) for row in first["results"]}
    assert questions == {
        (label, feature, probe, "test_seen")
        for label in ("picture", "motion")
        for feature in ("map16", "pooled")
        for probe in ("knn", "linear")
    } | {("motion", "map16", module, "test_seen") for module in ("averaged", "temporal module")}
    assert json.loads((out / "result.json").read_text())["results"] == first["results"]

    again = quickstart.run(settings(out)).to_dict()
    assert again["extract"]["rows_written"] == 0
    assert again["results"] == first["results"]


def test_a_quickstart_of_other_clips_needs_another_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(settings(tmp_path)))
    with pytest.raises(ConfigError, match="another motion; choose another out"):
        quickstart.run(settings(tmp_path, motion={**SMALL["motion"], "num_frames": 16}))
    (tmp_path / "config.yaml").write_text("command: scan\nsource: a\nout: b.parquet\n")
    with pytest.raises(ConfigError, match="results of another command"):
        quickstart.run(settings(tmp_path))


def test_videos_of_the_user_are_never_removed(tmp_path: Path) -> None:
    mine = tmp_path / "videos" / "holiday.mp4"
    mine.parent.mkdir()
    mine.write_bytes(b"precious")
    for _ in range(2):
        with pytest.raises(FeatcacheError, match="is not empty"):
            quickstart.run(settings(tmp_path))
    assert mine.read_bytes() == b"precious"
