"""``configs/finetune/folder.yaml``: from a folder of clips to a table, and to what each video shows."""

import json
from pathlib import Path

import pytest

from featcache.commands.classify import ClassifySettings, classify
from featcache.commands.registry import load
from featcache.commands.run import carry_out
from featcache.shipped import find_config
from tests.methods.finetune.helpers import write_classes

FILE = find_config(Path("configs/finetune/folder.yaml"))
ROWS = ("r21d-tiny", "shufflenet3d-tiny")


def settings(source, out, *changes):
    given = load(FILE)
    rows = [
        {"name": row.name, "set": {**row.set, "0.out": f"{out}/videos.parquet"}}
        for row in given.rows
    ]  # fmt: skip
    return load(
        FILE,
        assignments=[
            f"rows={json.dumps(rows)}",
            f"out={out}",
            f"steps.0.source={source}",
            "steps.0.selection.test_fraction=null",
            "steps.1.training.threads=1",
            "steps.1.training.tensorboard=false",
            *(
                f"steps.{step}.{key}=cpu"
                for step, key in ((1, "training.device"), (2, "runtime.device"), (5, "device"))
            ),
            "steps.2.runtime.threads=1",
            *changes,
        ],
    )


def tables(settings):
    said = list(carry_out(settings))
    return said[-1].to_dict(), said


def test_it_goes_from_clips_to_a_table(tmp_path):
    manifest = write_classes(tmp_path, {"train": 2, "test": 1})
    small = ("steps.1.training.epochs=1", "steps.1.training.batch_size=2", "steps.3.linear.epochs=1")
    few = ("steps.1.test.num_clips=1", "steps.2.sampling.num_clips=1", "steps.1.workers=0", "steps.5.workers=0")
    chosen = settings(
        manifest, tmp_path / "out", *small, *few, "steps.1.input_size=64", "steps.2.features.0.input_size=64"
    )
    table, said = tables(chosen)
    assert [row["name"] for row in table["rows"]] == list(ROWS)
    assert table["columns"] == ["fine-tuned", "linear", "R@1", "R@5"]
    assert sum(isinstance(each, str) for each in said) == len(ROWS)
    for name in ROWS:
        folder = tmp_path / "out" / name
        found = json.loads((folder / "5-classify/result.json").read_text())
        assert found["num_classes"] == 2
        assert len(found["videos"]) == 6
        assert [file.rpartition("/")[2] for file, *_ in found["failed"]] == ["broken.mp4"]
        scored = json.loads((folder / "1-train-finetune/result.json").read_text())
        assert scored["splits"]["test"]["coverage"]["ok"] == 2


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_clips(shared, tmp_path):
    videos = shared / "data" / "videos"
    rows = [
        f"{path},{path.parent.name},{'test' if 'g24' in path.name or 'TrumanShow' in path.name else 'train'}"
        for data_set in ("ucf101", "hmdb51")
        for path in sorted((videos / data_set).glob("*/*.avi"))
    ]
    assert len(rows) == 7
    listing = tmp_path / "clips.csv"
    listing.write_text("\n".join(("path,label,split", *rows)))
    changes = ("steps.1.training.epochs=20", "steps.1.training.batch_size=5")
    table, _ = tables(settings(listing, tmp_path / "out", *changes))
    assert [row["name"] for row in table["rows"]] == list(ROWS)
    for name in ROWS:
        run = tmp_path / "out" / name / "1-train-finetune"
        log = [json.loads(line) for line in (run / "seed-0/log.jsonl").read_text().splitlines()]
        assert log[-1]["loss"] < log[0]["loss"]
        ask = ClassifySettings(files=(str(videos / "hmdb51"),), model=str(run), top=2, device="cpu")
        found = classify(ask)
        assert len(found.videos) == 4
        assert not found.failed
        whole = {
            video["file"]: video for video in json.loads((run.parent / "5-classify/result.json").read_text())["videos"]
        }
        for video in found.videos:  # whatever is asked beside it
            again = whole[video.file]
            assert list(video.classes) == again["classes"][:2]
            assert video.probabilities == pytest.approx(again["probabilities"][:2], rel=1e-5)
