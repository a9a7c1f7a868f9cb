"""``evaluate noise``: every cell from one decoding pass, as scored the plain way, kept, resumed and compared."""

import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.noise import evaluate_noise
from featcache.commands.registry import load, plan_of
from featcache.config import parse
from featcache.data.decoding.base import open_video
from featcache.data.parquet import read_table
from featcache.data.selection import GROUP
from featcache.errors import ConfigError, RecipeMismatchError
from featcache.evaluation import noise_scoring
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.loaders import videos as video_files
from featcache.loaders.recipe_rows import RecipeSource
from featcache.methods.finetune.classifying import fine_tuned
from featcache.methods.finetune.finished import FinishedRun
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.scoring import video_scores
from featcache.methods.finetune.settings import FinetuneTestSettings
from featcache.metrics.comparison import compare
from featcache.noise import KINDS, SEVERITIES, NoiseRecipe
from tests.evaluation.shared_noise import asked, main
from tests.methods.finetune.helpers import changed, settings, training, write_classes
from tests.training.processes import together

VIEWS = FinetuneTestSettings(num_clips=2, num_crops=2)


def with_labels(video, **labels):
    return dataclasses.replace(video, labels={**video.labels, **labels})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six test videos in three groups, of which one does not decode."""
    manifest = write_classes(tmp_path_factory.mktemp("classes"), {"train": 4, "test": 3}, damaged=("test-red-1.mp4",))
    groups = iter("aabbcc")

    def grouped(video):
        group = next(groups) if video.split == "test" and video.status == "ok" else "t"
        return with_labels(video, **{GROUP: group})

    return changed(manifest, "grouped", grouped)


def tuned(videos, folder, **changes):
    given = {"test": VIEWS, "training": training(epochs=1, batch_size=8), **changes}
    finetune(settings(videos, folder, **given))
    return folder


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    return tuned(
        videos, tmp_path_factory.mktemp("runs") / "first", training=training(epochs=1, batch_size=8, seeds=(0, 1))
    )


@pytest.fixture(scope="module")
def other(videos, tmp_path_factory):
    """A run of other weights with the same test clips."""
    return tuned(videos, tmp_path_factory.mktemp("runs") / "second", head_dropout=0.1, frozen=True)


@pytest.fixture
def decoded(monkeypatch):
    """How often each video was opened, and each of its frames decoded."""
    counts = Counter()

    class Counting:
        def __init__(self, reader, name):
            self._reader, self._name = reader, name
            self.timeline, self.codec = reader.timeline, reader.codec

        def read(self, indices):
            for index, frame in self._reader.read(indices):
                counts[self._name, index] += 1
                yield index, frame

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return self._reader.__exit__(*error)

    def opened(path, *, decoder, check):
        counts[path.name] += 1
        return Counting(open_video(path, decoder=decoder, check=check), path.name)

    monkeypatch.setattr(video_files, "open_video", opened)
    return counts


def table_of(folder):
    rows = read_table(folder / "predictions.parquet").to_pylist()
    return {(row["seed"], row["video"]): np.array(row["scores"]) for row in rows}


def test_all_kinds_and_severities_come_from_one_pass(videos, run, tmp_path, decoded):
    stages = []
    result = evaluate_noise(
        asked(run, out=str(tmp_path / "n")),
        on_stage=lambda stage, done, total, note="", num_failed=0: stages.append((stage, done, total)),
    )
    names = ["clean", *(f"{kind}-{severity}" for kind in KINDS for severity in SEVERITIES)]
    frames = {key: count for key, count in decoded.items() if isinstance(key, tuple)}
    assert len(names) == 21
    assert set(frames.values()) == {1}, "each frame once for two seeds, four views and 21 cells"
    assert {key: count for key, count in decoded.items() if isinstance(key, str)} == {
        f"test-{color}-{number}.mp4": 1 for color in ("red", "blue") for number in range(3)
    }
    assert stages[-1] == ("noise", 6, 6)

    found = {name: table_of(tmp_path / "n/first" / name) for name in names}
    assert all(len(each) == 2 * 5 for each in found.values())
    plain = table_of(run)
    for key, scores in found["clean"].items():
        np.testing.assert_allclose(scores, plain[key], rtol=1e-4, atol=1e-6)
    changed_by = [np.abs(found["gaussian-5"][key] - found["clean"][key]).max() for key in plain]
    assert min(changed_by) > 0

    part = result.runs["first"].splits["test"]
    assert list(part.noisy) == names[1:]
    assert (part.num_videos, part.num_groups) == (5, 3)
    assert (part.coverage.ok, part.coverage.failed, part.coverage.total) == (5, 2, 7)
    accuracy = {name: read_right(tmp_path / "n/first" / name) for name in names}
    for name, cell in part.noisy.items():
        clean, noisy = accuracy["clean"], accuracy[name]
        assert cell.metrics["top1"].value == pytest.approx(noisy)
        assert cell.robustness.drop.value == pytest.approx((clean - noisy) / clean)
        assert cell.robustness.absolute.value == pytest.approx(1 - (clean - noisy))
    drops = [part.noisy[f"{kind}-2"].robustness.drop.value for kind in KINDS]
    assert part.by_severity["2"].robustness.drop.value == pytest.approx(np.mean(drops))
    assert part.mean.top1.value == pytest.approx(np.mean([accuracy[name] for name in names[1:]]))

    assert (tmp_path / "n/accuracy.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "n/result.json").read_text())
    assert saved["runs"]["first"]["splits"]["test"]["noisy"]["shot-3"]["amount"] == 50
    assert saved == json.loads(json.dumps(result.to_dict()))
    assert load(tmp_path / "n/config.yaml") == asked(run, out=str(tmp_path / "n"))
    summary = result.summary()
    assert len(summary.tables[0].rows) == 21 + 5 + 1
    assert summary.lines == ("intervals of first, test are over 3 groups, not over videos",)
    one, two = summary.next_command.split()[-2:]
    assert compare([one, two]).splits["test"].num_videos == 5
    assert not list((tmp_path / "n").glob("parts*"))


def read_right(folder):
    return np.mean(read_table(folder / "predictions.parquet").column("correct").to_pylist())


@pytest.mark.parametrize("place", ["frame", "crop"])
def test_a_cell_is_scored_as_a_noisy_recipe_is(videos, run, tmp_path, place):
    changes = {"noise": ("impulse",), "severity": (5,), "place": place, "table": "imagenet-c", "seed": 4}
    evaluate_noise(asked(run / "seed-1", num_clips=1, num_crops=1, out=str(tmp_path), **changes))
    ready = fine_tuned(run / "seed-1/classifier.safetensors", device=torch.device("cpu"))
    noise = NoiseRecipe(kind="impulse", severity=5, place=place, table="imagenet-c", seed=4)
    views = dataclasses.replace(ready.views, num_clips=1, num_crops=1, noise=noise)
    files = FinishedRun.find(str(run)).data(("blue", "red")).tests["test"].files
    numbers, scores = video_scores(
        ready.module, RecipeSource(views, crop=ready.crop, seed=0), files, workers=0, clips_at_once=1, average="softmax"
    )
    found = table_of(tmp_path / "first/impulse-5")
    assert [key[0] for key in found] == [1] * 5
    for number, expected in zip(numbers, scores, strict=True):
        np.testing.assert_allclose(found[1, files.videos[number].id], expected, rtol=1e-4, atol=1e-6)


def test_cells_are_kept_and_a_killed_evaluation_goes_on(run, tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(noise_scoring, "BLOCK", 2)
    ask = asked(run, out=str(tmp_path), noise=("shot",), severity=(1,))

    class KilledError(Exception): ...

    def kill(stage, done, total, note="", num_failed=0):
        if (stage, done) == ("noise", 6):
            raise KilledError

    with pytest.raises(KilledError):
        evaluate_noise(ask, on_stage=kill)
    opened = [key for key in decoded if isinstance(key, str)]
    assert len(opened) == 6
    decoded.clear()
    once = evaluate_noise(ask)
    assert [key for key in decoded if isinstance(key, str)] == opened[4:], "the last block, which was not kept"
    decoded.clear()
    again = evaluate_noise(ask)
    assert not decoded
    assert again.runs == once.runs
    wider = evaluate_noise(ask.model_copy(update={"severity": (1, 2)}))
    assert wider.runs["first"].splits["test"].noisy["shot-1"] == once.runs["first"].splits["test"].noisy["shot-1"]
    assert {count for key, count in decoded.items() if isinstance(key, str)} == {1}
    whole = evaluate_noise(asked(run, out=str(tmp_path / "straight"), noise=("shot",), severity=(1, 2)))
    for name in ("clean", "shot-1", "shot-2"):
        found, straight = (table_of(folder / "first" / name) for folder in (tmp_path, tmp_path / "straight"))
        assert all(np.allclose(found[key], straight[key], rtol=1e-4) for key in straight)
    assert whole.runs["first"].splits == wider.runs["first"].splits

    for other in ({"place": "crop"}, {"num_clips": 1}, {"seed": 1}):
        with pytest.raises(RecipeMismatchError, match=r"holds scores with .*; choose another --out"):
            evaluate_noise(ask.model_copy(update=other))


def test_runs_of_the_same_clips_share_the_pass(run, other, tmp_path, decoded):
    ask = asked(run, other, out=str(tmp_path / "both"), noise=("speckle",), severity=(5,))
    both = evaluate_noise(ask)
    assert {count for key, count in decoded.items() if isinstance(key, str)} == {1}
    assert list(both.runs) == ["first", "second"]
    alone = evaluate_noise(asked(other, out=str(tmp_path / "alone"), noise=("speckle",), severity=(5,)))
    assert both.runs["second"].splits == alone.runs["second"].splits
    plan = plan_of("evaluate-noise")(ask)
    assert (plan.num_models, plan.num_passes, plan.num_videos, plan.num_cells) == (3, 1, 6, 2)
    assert plan.num_clips == 6 * 4 * 2 * 3
    assert plan.summary().facts["decoded"] == "6 videos, once for all cells, in 1 passes"


def test_mistakes_are_one_sentence(run, videos, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no classifier\.safetensors"):
        evaluate_noise(asked(tmp_path))
    shutil.copytree(run / "seed-0", tmp_path / "alone/seed-0")
    with pytest.raises(ConfigError, match=r"holds no config\.yaml of `train finetune`"):
        evaluate_noise(asked(tmp_path / "alone"))
    for wrong, message in (
        ({"severity": [7]}, "severity is 7; it must be a whole number from 1 to 5"),
        ({"noise": ["shot", "shot"]}, "noise names 'shot' twice"),
        ({"noise": ["gausian"]}, "gaussian"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(NoiseEvaluationSettings, {"runs": [str(run)], **wrong})
    changed(videos, "fewer", lambda video: with_labels(video, label=video.labels["label"].replace("red", "green")))
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    text = (copied / "config.yaml").read_text().replace("grouped.parquet", "fewer.parquet")
    (copied / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="have other classes now than its model was trained on"):
        evaluate_noise(asked(copied))


def test_the_command(run, tmp_path):
    words = f"evaluate noise {run} --noise gaussian --noise shot --severity 1 --place crop --device cpu --workers 0"
    runner = CliRunner()
    planned = runner.invoke(app, [*words.split(), "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(planned.stdout)["num_cells"] == 3
    done = runner.invoke(
        app,
        [*words.split(), "--out", str(tmp_path), "--set", "intervals.num_resamples=20", "--json"],
        catch_exceptions=False,
    )
    assert set(json.loads(done.stdout)["runs"]["first"]["splits"]["test"]["noisy"]) == {"gaussian-1", "shot-1"}
    wrong = runner.invoke(app, f"evaluate noise {run} --noise gausian".split())
    assert wrong.exit_code != 0
    text = runner.invoke(app, ["evaluate", "noise", "--help"], catch_exceptions=False).stdout
    assert "featcache evaluate noise" in text


@pytest.mark.slow
def test_two_processes_score_as_one(run, tmp_path):
    together(main, run, tmp_path / "two")
    main(run, tmp_path / "one")
    for name in ("clean", "gaussian-2"):
        one, two = (table_of(tmp_path / which / "first" / name) for which in ("one", "two"))
        assert list(one) == list(two)
        for key, scores in one.items():
            np.testing.assert_allclose(two[key], scores, rtol=1e-4, atol=1e-6)
    assert (tmp_path / "two/accuracy.png").exists()
    results = [json.loads((tmp_path / which / "result.json").read_text())["runs"] for which in ("one", "two")]
    assert results[0] == results[1]
