"""Training videos out of one store and test videos out of another."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.errors import ManifestError, RecipeMismatchError
from featcache.evaluation.reading import open_source, read_data
from featcache.evaluation.two_stores import check_alike, read_both
from featcache.noise import NoiseRecipe
from featcache.recipes import SamplingRecipe
from featcache.testing import stores


def write(path, *, rows, dtype="float16", **plan):
    records = {"x": stores.make_record((6,), dtype)}
    stores.write_store(path, stores.StorePlan(records=records, num_videos=18, rows_per_video=(rows,), **plan))
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Three random views per video, and one view of the same videos; a training and a test video fail in one each."""
    folder = tmp_path_factory.mktemp("pair")
    return write(folder / "train", rows=3, failing={1: "timeout"}), write(
        folder / "test", rows=1, failing={3: "timeout"}
    )


def test_each_video_has_the_rows_of_its_store(pair):
    ours, theirs = (read_data(path) for path in pair)
    data = read_both(*map(open_source, pair), train_split="train")
    expected = [video for video, split in zip(ours.videos, ours.splits, strict=True) if split == "train"]
    tested = [video for video, split in zip(theirs.videos, theirs.splits, strict=True) if split != "train"]
    assert data.videos == (*expected, *tested)
    counts = data.rows_of(np.arange(len(data.videos)))[1]
    assert counts.tolist() == [3] * len(expected) + [1] * len(tested)
    for source in (ours, theirs):
        for place, video in enumerate(data.videos):
            if (data.splits[place] == "train") == (source is ours):
                mine, other = np.array([place]), np.array([source.videos.index(video)])
                np.testing.assert_array_equal(
                    data.features[data.rows_of(mine)[0]], source.features[source.rows_of(other)[0]]
                )
                assert data.classes[data.labels[place]] == source.classes[source.labels[other[0]]]
    assert data.coverage["train"] == ours.coverage["train"]
    assert data.coverage["test"] == theirs.coverage["test"]
    assert data.coverage["test"].failed == data.coverage["train"].failed == 1


def test_the_command_reads_both_and_knows_them_by_content(pair, tmp_path):
    train, test = map(str, pair)

    def run(*words):
        return CliRunner().invoke(app, ["probe", "knn", train, "-k", "3", "--out", str(tmp_path / "out"), *words])

    assert run("--test-store", test).exit_code == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["store"] == f"{train} and {test}"
    assert result["splits"]["test"]["coverage"]["failed"] == 1
    again = run("--test-store", test)
    assert "computed before and kept" in again.output
    other = run()
    assert isinstance(other.exception, RecipeMismatchError)
    assert "content of test_store" in str(other.exception)


def test_a_probe_of_clean_videos_is_tested_on_noisy_ones(pair, tmp_path):
    records = {"x": stores.make_record((6,))}
    noisy = SamplingRecipe(noise=NoiseRecipe(kind="shot", severity=3))
    plan = stores.StorePlan(records=records, num_videos=18, rows_per_video=(1,))
    stores.write_store(tmp_path / "noisy", plan, sampling=noisy)
    words = ["probe", "knn", str(pair[0]), "--test-store", str(tmp_path / "noisy"), "-k", "3", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert json.loads(done.stdout)["store"] == f"{pair[0]} and {tmp_path / 'noisy'}"


def test_another_feature_is_refused(pair, tmp_path):
    other = write(tmp_path / "other", rows=1, dtype="float32")
    with pytest.raises(
        RecipeMismatchError, match=r"precision \('float16' against 'float32'\); extract the same feature"
    ):
        check_alike(open_source(pair[0]), open_source(other))


def test_a_video_on_both_sides_is_refused(pair, tmp_path):
    class Otherwise:
        """The same videos, all of them test videos."""

        def __init__(self, source):
            self.store = source.store
            self._source = source

        def rows(self, *, on_stage):
            rows = self._source.rows(on_stage=on_stage)
            rows.about.splits[:] = ["test"] * len(rows.about.splits)
            return rows

    with pytest.raises(ManifestError, match=r"videos are in split 'train' of .* and in another split of"):
        read_both(open_source(pair[0]), Otherwise(open_source(pair[1])), train_split="train")
