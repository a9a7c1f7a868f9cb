"""Search over real extractions: by video, by text, by vectors; the command, its YAML and its picture."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import featcache
from featcache.cli.verbs import perform
from featcache.commands.registry import load
from featcache.commands.search import SearchSettings
from featcache.config import parse, to_yaml
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, VideoError, WeightsError
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.retrieval import TextQuery, VideoQuery, search
from featcache.retrieval.sheet import TILE_HEIGHT, TILE_WIDTH, contact_sheet
from featcache.testing.videos import write_video
from tests.cli.helpers import run_here
from tests.tiny_clip import both_towers, known_to_open_clip

ARCHITECTURE = "tiny-clip-for-search"
CLIP = f"open_clip/{ARCHITECTURE}:openai"
LITE0 = "timm/tf_efficientnet_lite0"
NUM_VIDEOS = 4


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Teach open_clip a small architecture with a tag, and its own tokeniser's vocabulary."""
    with known_to_open_clip(ARCHITECTURE, tmp_path_factory.mktemp("architectures"), text={"context_length": 16}):
        yield


@pytest.fixture(scope="module")
def whole(tiny):
    """open_clip's own model, both towers."""
    return both_towers(ARCHITECTURE)


@pytest.fixture(scope="module")
def weights(whole, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "both.safetensors"
    save_file(whole.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four clips of one photograph, each from another place, in two folders."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        path = root / ("even" if number % 2 == 0 else "odd") / f"v{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        width = (96, 64, 128, 80)[number]
        write_video(path, num_frames=8 + 4 * number, width=width, options={"crf": "18", "preset": "veryfast"})
    return root


@pytest.fixture(scope="module")
def store(videos, weights, tmp_path_factory):
    """Three arrays: CLIP's joint vectors, its tokens, and another backbone's map."""
    out = tmp_path_factory.mktemp("stores") / "s"
    clip = {"backbone": CLIP, "weights": str(weights)}
    features = (
        FeatureSettings(name="joint", layer="proj", output="cls", precision="float32", **clip),
        FeatureSettings(name="dense", output="map", precision="int8", **clip),
        FeatureSettings(name="other", backbone=LITE0, weights="random", input_size=32, precision="float32"),
    )
    extract(
        ExtractSettings(
            source=str(videos),
            out=str(out),
            features=features,
            sampling=SamplingSettings(num_clips=3, num_frames=2, frame_stride=2),
            runtime=RuntimeSettings(device="cpu", threads=1, encode_batch=2),
        )
    )
    return out


@pytest.mark.parametrize("feature", ["joint", "dense", "other"])
@pytest.mark.parametrize("by", ["clip", "video"])
def test_a_video_of_the_store_finds_itself_first(store, videos, feature, by):
    query = videos / "odd" / "v1.mp4"
    results = [
        search(store, VideoQuery(query), feature=feature, by=by, k=50, engine=engine, device="cpu")
        for engine in ("exact", "faiss")
    ]
    exact, by_faiss = results
    assert len(exact.hits) == NUM_VIDEOS * (3 if by == "clip" else 1)
    # Several cosines are 1 but for rounding: what is found and its score agree, not the order of such equals.
    scores, others = ({hit.row: hit.score for hit in result.hits} for result in results)
    assert scores == pytest.approx(others, abs=1e-6)
    assert [hit.rank for hit in by_faiss.hits] == [*range(1, len(exact.hits) + 1)]
    first = exact.hits[0]
    assert (first.video, first.label) == ("odd/v1.mp4", "odd")
    assert first.score == pytest.approx(1, abs=2e-3 if feature == "dense" else 1e-6)  # int8 is not float32
    assert (exact.coverage.ok, exact.coverage.total) == (NUM_VIDEOS, NUM_VIDEOS)


def test_scores_equal_a_plain_computation(store, videos):
    features = featcache.open(store).feature("joint")
    query = features.video("even/v2.mp4")
    result = search(store, VideoQuery(videos / "even" / "v2.mp4"), feature="joint", k=100, device="cpu")
    for hit in result.hits:
        row = features[hit.row]
        cosines = query @ row / np.linalg.norm(query, axis=1) / np.linalg.norm(row)
        assert hit.score == pytest.approx(float(cosines.max()), abs=1e-6)
        assert (hit.start_seconds, hit.end_seconds) == (features.rows.t0[hit.row], features.rows.t1[hit.row])
        assert hit.frame in features.rows.frames[hit.row]
    means = search(store, query, feature="joint", by="video", k=100)
    for hit in means.hits:
        mean, own = features.video(hit.video).mean(axis=0), query.mean(axis=0)
        assert hit.score == pytest.approx(float(mean @ own / np.linalg.norm(mean) / np.linalg.norm(own)), abs=1e-6)
        assert (hit.start_seconds, hit.end_seconds) == (
            features.rows.t0[features.rows_of(hit.video)].min(),
            features.rows.t1[features.rows_of(hit.video)].max(),
        )


def test_long_stores_are_searched_block_by_block(store, monkeypatch):
    query = np.random.default_rng(0).standard_normal((2, 12), np.float32)
    whole = [search(store, query, feature="joint", by=by, k=7) for by in ("clip", "video")]
    monkeypatch.setattr("featcache.retrieval.run.BLOCK_ROWS", 4)
    for result, by in zip(whole, ("clip", "video"), strict=True):
        again = search(store, query, feature="joint", by=by, k=7)
        assert [hit.row for hit in again.hits] == [hit.row for hit in result.hits]
        np.testing.assert_allclose([h.score for h in again.hits], [h.score for h in result.hits], atol=1e-6)


@pytest.mark.parametrize("by", ["clip", "video"])
def test_the_query_itself_can_be_left_out(store, videos, tmp_path, by):
    copy = tmp_path / "another name.mp4"
    shutil.copy(videos / "odd" / "v3.mp4", copy)
    result = search(store, VideoQuery(copy), feature="other", by=by, exclude_self=True, k=50, device="cpu")
    assert result.excluded == ("odd/v3.mp4",)
    assert {hit.video for hit in result.hits} == {"even/v0.mp4", "odd/v1.mp4", "even/v2.mp4"}


# Text


def test_text_equals_open_clip(store, whole):
    words = "a photograph of an astronaut"
    result = search(store, TextQuery(words), feature="joint", k=50, device="cpu")
    with torch.inference_mode():
        wanted = whole.encode_text(open_clip.get_tokenizer(ARCHITECTURE)([words]), normalize=True)[0].numpy()
    features = featcache.open(store).feature("joint")
    rows = features.gather(np.arange(features.num_rows))
    cosines = rows @ wanted / np.linalg.norm(rows, axis=1)
    assert {hit.row: hit.score for hit in result.hits} == pytest.approx(dict(enumerate(cosines.tolist())), abs=1e-6)
    np.testing.assert_allclose([hit.score for hit in result.hits], np.sort(cosines)[::-1], atol=1e-6)


def test_random_towers_come_from_the_name(tiny):
    from featcache.backbones.clip_text import build_text

    one, two = build_text(CLIP, "random").encode(["a dog"]), build_text(CLIP, "random").encode(["a dog", "a cat"])
    torch.testing.assert_close(one[0], two[0])
    assert one.shape == (1, 12)
    assert not torch.allclose(two[0], two[1])


@pytest.mark.parametrize("feature", ["dense", "other"])
def test_text_needs_the_joint_space(store, feature):
    with pytest.raises(FeatcacheError, match=r"shares no space with text; .*--layer proj --output cls"):
        search(store, TextQuery("a dog"), feature=feature, device="cpu")


def test_text_needs_both_towers(store, whole, tmp_path):
    file = tmp_path / "image.safetensors"
    save_file(whole.visual.state_dict(), file)
    with pytest.raises(WeightsError, match="holds the image tower alone"):
        search(store, TextQuery("a dog"), feature="joint", weights={CLIP: str(file)}, device="cpu")


@pytest.mark.parametrize("name", ["open_clip/ViT-B-16-SigLIP:webli", "open_clip/roberta-ViT-B-32:laion2b_s12b_b32k"])
def test_towers_of_the_hub_are_refused(name):
    from featcache.backbones.clip_text import build_text

    with pytest.raises(FeatcacheError, match="which is not supported; search by --video"):
        build_text(name, "random")


# Mistakes


def test_mistakes_are_sentences(store, videos, tmp_path):
    query = np.ones(12, np.float32)
    with pytest.raises(UnknownNameError, match=r"several features \(dense, joint, other\); name one"):
        search(store, query)
    with pytest.raises(UnknownNameError, match="did you mean 'joint'"):
        search(store, query, feature="jont")
    with pytest.raises(ConfigError, match="k is 0"):
        search(store, query, feature="joint", k=0)
    with pytest.raises(ConfigError, match="has 12 channels, feature 'other' has 1280"):
        search(store, query, feature="other")
    with pytest.raises(ConfigError, match="the query is no file"):
        search(store, query, feature="joint", exclude_self=True)
    with pytest.raises(UnknownNameError, match="label column"):
        search(store, query, feature="joint", label="lable")
    with pytest.raises(VideoError, match="no such file"):
        search(store, VideoQuery(tmp_path / "no.mp4"), feature="joint", device="cpu")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": None}, "nothing says what to search for; give --video FILE or --text WORDS"),
        ({"text": "a dog"}, "either --video FILE or --text WORDS"),
        ({"video": None, "text": "  "}, "--text is empty"),
        ({"video": None, "text": "a dog", "exclude_self": True}, "drop it"),
        ({"sheet": "hits.gif"}, "ends in .png or .jpg"),
        ({"by": "row"}, "by"),
        ({"k": 0}, "k"),
    ],
)
def test_settings_are_checked(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse(SearchSettings, {"store": "s", "video": "v.mp4", **change})


# The command


def test_the_command_its_yaml_and_the_sheet(store, videos, tmp_path, capsys):
    query, sheet = videos / "odd" / "v1.mp4", tmp_path / "hits.png"
    options = ["--video", query, "--feature", "other", "--by", "video", "-k", 3, "--sheet", sheet, "--device", "cpu"]
    found = json.loads(run_here("search", store, *options, "--json").stdout)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["hits"][0]["video"] == "odd/v1.mp4"
    assert found["coverage"] == {"ok": 4, "failed": 0, "pending": 0, "total": 4}
    picture = Image.open(sheet)
    assert picture.width == 3 * TILE_WIDTH
    # The first tile shows the middle frame itself, not grey: rebuild its middle pixel from the video.
    from featcache.data.decoding import open_video

    with open_video(query) as reader:
        ((_, frame),) = reader.read([found["hits"][0]["frame"]])
    thumbnail = Image.fromarray(frame)
    thumbnail.thumbnail((TILE_WIDTH, TILE_HEIGHT))
    middle = (thumbnail.width // 2, thumbnail.height // 2)
    at = ((TILE_WIDTH - thumbnail.width) // 2 + middle[0], (TILE_HEIGHT - thumbnail.height) // 2 + middle[1])
    assert picture.getpixel(at) == thumbnail.getpixel(middle)
    settings = parse(SearchSettings, {"store": str(store), "video": str(query), "feature": "other", "device": "cpu"})
    file = tmp_path / "search.yaml"
    file.write_text(to_yaml(settings))
    assert load(file) == settings
    perform(settings)
    printed = capsys.readouterr().out
    assert "odd/v1.mp4" in printed
    assert "searched 4 of 4 videos (0 failed)" in printed


def test_a_sheet_of_videos_that_are_gone_or_others(store, videos, tmp_path):
    result = search(store, np.ones(12, np.float32), feature="joint", by="video", k=4)
    moved = tmp_path / "moved"
    shutil.copytree(videos, moved)
    gone, other = Path(result.hits[0].video), Path(result.hits[1].video)
    (moved / gone).unlink()
    shutil.copy(videos / result.hits[2].video, moved / other)
    sheet = contact_sheet(result, videos=moved)
    corners = [sheet.getpixel((number * TILE_WIDTH + 3, 3)) for number in range(2)]
    assert corners == [(190, 190, 190)] * 2
    assert sheet.getpixel((2 * TILE_WIDTH + TILE_WIDTH // 2, TILE_HEIGHT // 2)) != (190, 190, 190)
