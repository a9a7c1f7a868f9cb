"""``featcache audit leaks``: honest tasks, planted leaks, and the cues by hand."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.config import parse, read_yaml
from featcache.errors import ConfigError
from featcache.loaders.looks import LookSettings
from featcache.loaders.views import strided_view
from featcache.methods.pretext.cvrl import Cvrl
from featcache.methods.pretext.leaks.audit import audit_leaks, first_equal
from featcache.methods.pretext.leaks.clips import MOVING, REPEATED, controls, video_frames
from featcache.methods.pretext.leaks.cues import (
    DIFFERENCES,
    FIRST_FRAME,
    PIXELS,
    RIGHT_KEY,
    SAME_VIDEO,
    SORTED,
    Drawn,
    Question,
    asked_of_clips,
    changes,
    picture,
    sorted_changes,
    stillness,
)
from featcache.methods.pretext.leaks.findings import LENGTH, PLACE, Finding, LeakResult
from featcache.methods.pretext.leaks.guessing import mean_class_accuracy
from featcache.methods.pretext.leaks.settings import LeakSettings
from featcache.methods.pretext.prp import Prp
from featcache.methods.pretext.rotnet import RotNet
from featcache.methods.pretext.rspnet import Rspnet
from featcache.methods.pretext.task import Draw
from featcache.methods.pretext.tdl import Tdl
from featcache.methods.pretext.videomae import VideoMae
from featcache.metrics.settings import IntervalSettings

PLAIN = LookSettings(crop="centre", flip_probability=0.0)
FEW = IntervalSettings(num_resamples=2000, confidence=0.999)


def audit(tmp_path, task, **changed):
    """An audit of few small clips with a key frame every 8 frames."""
    small = {
        "num_frames": 8,
        "input_size": 32,
        "num_videos": 4,
        "num_draws": 30,
        "video_frames": 64,
        "video_size": 32,
        "gops": (8,),
        "out": str(tmp_path / task.name),
    }
    return audit_leaks(LeakSettings(task=task, **{**small, **changed}))


def finding(result, control, question, cue):
    (found,) = [each for each in result.findings if (each.control, each.question, each.cue) == (control, question, cue)]
    return found


class Coin(RotNet):
    """The answer is a coin that nothing shows."""

    look: LookSettings = PLAIN

    def draw(self, footage, shape, rng):
        start = int(rng.integers(footage.num_frames - self.min_frames(shape) + 1))
        drawn = super().draw(footage, shape, rng)
        look = drawn.views[0].looks[0]._replace(turns=0)
        view = strided_view(start, self.stride, shape, look)
        return Draw(views=(view,), targets={"turns": self.answer(footage, start, rng)})

    def answer(self, footage, start, rng):
        return int(rng.integers(2))


class TellsLength(Coin):
    """Videos of an odd number of frames are answered with 1 more often."""

    def answer(self, footage, start, rng):
        return int(rng.random() < (0.7 if footage.num_frames % 2 else 0.3))


class TellsPlace(Coin):
    """Clips from the second half of a video are answered with 1."""

    def answer(self, footage, start, rng):
        return int(start > (footage.num_frames - 15) / 2)


class TellsFlicker(Coin):
    """Clips of answer 1 are mirrored in every other frame."""

    def draw(self, footage, shape, rng):
        drawn = super().draw(footage, shape, rng)
        (view,), answer = drawn.views, drawn.targets["turns"]
        looks = tuple(look._replace(flip=bool(answer and place % 2)) for place, look in enumerate(view.looks))
        return drawn._replace(views=(type(view)(frames=view.frames, looks=looks, size=view.size),))


def test_a_task_that_nothing_tells_has_no_leak(tmp_path):
    result = audit(tmp_path, Coin())
    assert result.leaks == ()
    assert not any(found.is_told for found in result.findings)
    assert all(found.chance == 0.5 for found in result.findings)
    assert "nothing tells what rotnet asks" in result.summary().lines[0]
    still = finding(result, REPEATED.name, "turns", DIFFERENCES)
    assert still.low <= 0.5 <= still.high


@pytest.mark.parametrize(
    ("task", "control", "untold", "words"),
    [
        (TellsLength, LENGTH, (PLACE, REPEATED.name, MOVING.name), "the length of the video tells 'turns'"),
        (TellsPlace, PLACE, (REPEATED.name,), "the place in the video tells 'turns'"),
        (TellsFlicker, REPEATED.name, (LENGTH, PLACE), "the clip of one repeated frame changes, by which it tells"),
    ],
)
def test_a_planted_leak_is_named(tmp_path, task, control, untold, words):
    result = audit(tmp_path, task())
    assert any(leak.startswith(words) for leak in result.leaks), result.leaks
    assert any(found.is_told for found in result.findings if found.control == control)
    assert not any(found.is_told for found in result.findings if found.control in untold)


def test_the_codec_tells_a_rate_that_one_frame_does_not(tmp_path):
    result = audit(tmp_path, Prp(complexity="c1", look=PLAIN), gops=(8, 1), num_draws=40, video_size=64, crf=28)
    codec, intra, repeated = (
        finding(result, name, "rate", SORTED) for name in ("still, GOP 8", "still, all-intra", REPEATED.name)
    )
    assert codec.low > 0.55
    assert not intra.is_told
    assert not repeated.is_told
    assert any(leak.startswith("the codec tells 'rate' in") and "still, GOP 8" in leak for leak in result.leaks)
    assert not any("all-intra" in leak for leak in result.leaks)
    # The views that the network does not read repeat frames at low rates, which would tell the rate without a codec.
    assert finding(result, REPEATED.name, PIXELS, "mean frame").value == 1


@pytest.mark.slow
def test_the_codec_tells_the_rate_as_the_page_says(tmp_path):
    """Key frames every 24 frames tell rates 1, 2 and 4 in more than two thirds, key frames alone do not."""
    result = audit_leaks(parse(LeakSettings, {"task": {"name": "prp", "complexity": "c2"}, "out": str(tmp_path)}))
    near, far, alone = (
        max(found.value for found in result.findings if (found.control, found.question) == (control, "rate"))
        for control in ("still, GOP 24", "still, GOP 250", "still, all-intra")
    )
    assert 0.62 < near < 0.8
    assert 0.37 < far < 0.55
    assert alone < 0.4
    assert not finding(result, LENGTH, "rate", "number of frames").is_told


def test_one_frame_tells_a_rotation_and_the_codec_is_not_blamed(tmp_path):
    result = audit(tmp_path, RotNet(look=PLAIN))
    assert finding(result, REPEATED.name, "turns", FIRST_FRAME).low > 0.5
    assert [leak for leak in result.leaks if leak.startswith("one frame tells 'turns'")]
    assert not any(leak.startswith("the codec") for leak in result.leaks)


def test_tasks_without_answers_are_asked_which_clips_belong_together(tmp_path):
    result = audit(tmp_path, Cvrl(look=PLAIN, other_look=PLAIN))
    assert {found.question for found in result.findings} == {SAME_VIDEO}
    assert finding(result, REPEATED.name, SAME_VIDEO, FIRST_FRAME).low > 0.5
    assert not finding(result, REPEATED.name, SAME_VIDEO, DIFFERENCES).is_told


def test_where_the_camera_moves_equal_frames_tell_the_same_moment(tmp_path):
    result = audit(tmp_path, Tdl(look=PLAIN, stride=2))
    assert {found.question for found in result.findings} == {"mixed_frame", SAME_VIDEO, RIGHT_KEY}
    assert not any(found.is_told for found in result.findings if found.question == "mixed_frame")
    assert not finding(result, REPEATED.name, RIGHT_KEY, FIRST_FRAME).is_told
    assert finding(result, MOVING.name, RIGHT_KEY, FIRST_FRAME).low > 0.6
    assert any("how they change is not needed" in leak and RIGHT_KEY in leak for leak in result.leaks)


def test_a_result_repeats_is_json_and_says_what_was_asked(tmp_path):
    one, same = (audit(tmp_path / name, VideoMae(stride=1, look=PLAIN), num_draws=4) for name in ("a", "b"))
    assert one.findings == same.findings
    assert [found.question for found in one.findings] == [PIXELS] * 3
    moving = finding(one, MOVING.name, PIXELS, "mean frame")
    assert 0.2 < moving.value < 0.99
    stored = json.loads((tmp_path / "a" / "videomae" / "result.json").read_bytes())
    assert stored == json.loads(json.dumps(one.to_dict()))
    repeated = parse(LeakSettings, read_yaml((tmp_path / "a" / "videomae" / "config.yaml").read_text()))
    assert repeated.task == VideoMae(stride=1, look=PLAIN)


def test_still_videos_stand_still_and_moving_ones_move(tmp_path):
    settings = LeakSettings(task=RotNet(), video_frames=60, video_size=64, gops=(24, 1))
    for control in controls(settings.gops):
        frames = video_frames(control, 3, settings, folder=tmp_path)
        assert frames.shape == (60, 64, 64, 3)
        apart = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean()
        assert apart == 0 if control == REPEATED else apart > 1 if control.moves else apart < 1
    assert [control.name for control in controls((24, 1))] == [
        "one frame repeated",
        "still, GOP 24",
        "still, all-intra",
        "camera moves, all-intra",
    ]


def test_equal_frames_are_found():
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    frames[1] = frames[4] = 7
    frames[3, 0, 0, 0] = 1
    assert first_equal(frames) == [0, 1, 0, 3, 1]


def test_a_cue_that_tells_hides_behind_no_other():
    of = {"control": "still, GOP 24", "question": "rate", "chance": 0.5}
    told = Finding(cue=SORTED, value=0.55, low=0.52, high=0.58, **of)
    noise = Finding(cue=FIRST_FRAME, value=0.58, low=0.4, high=0.7, **of)
    for findings in ((told, noise), (noise, told)):
        result = LeakResult(folder="runs", task="prp", num_draws=9, findings=findings)
        (row,) = result.summary().tables[0].rows
        assert row[2:5] == (SORTED, "told", "55.0 [52.0, 58.0]")
        (leak,) = result.leaks
        assert (
            leak
            == "the codec tells 'rate' in 55.0 %, where a guess is right in 50.0 % (still, GOP 24, sorted differences)"
        )


def test_cues_by_hand():
    clip = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    clip[1] = 10
    clip[2, 0] = 40
    np.testing.assert_allclose(np.exp(changes(clip)) - 0.1, [10, (30 + 10 + 10) / 3, 40 / 3])
    np.testing.assert_array_equal(sorted_changes(clip), np.sort(changes(clip)))
    clip[0, :, :2, :2] = 255
    small = picture(clip).reshape(3, 8, 8)
    assert small[:, 0, 0].tolist() == [1, 1, 1]
    assert small.sum() == 3
    assert stillness(clip[:1].repeat(5, 1, 1, 1)) == 1
    blinking = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    blinking[1] = 200
    assert stillness(blinking) == 0


def test_pairs_are_of_one_video_or_two_and_keys_change_sides():
    videos = np.repeat(np.arange(5), 8)
    values = np.zeros((40, 3, 1))
    values[:, :2, 0] = videos[:, None]  # the third clip is as far as a hundred from its video
    values[:, 2, 0] = videos + 100
    drawn = Drawn(videos=videos, targets={}, places=np.zeros(40))
    same, key = asked_of_clips(Rspnet(), drawn, "x", values, seed=0)
    assert (same.name, key.name) == (SAME_VIDEO, RIGHT_KEY)
    assert ((same.features[:, 0] == 0) == (same.answers == 1)).all()
    assert np.bincount(same.answers).tolist() == [20, 20]
    assert (key.features[:, 0] == np.where(key.answers == 1, -100, 100)).all()


def test_accuracy_of_a_cue_that_says_nothing_is_that_of_a_guess():
    answers = np.repeat(np.arange(3), [50, 20, 30])
    constant = Question("a", "x", np.ones((100, 4)), answers, 3)
    found = mean_class_accuracy(constant, intervals=FEW, seed=0)
    assert found.value == pytest.approx(1 / 3, abs=0.1)
    told = Question("a", "x", np.eye(3)[answers], answers, 3)
    assert mean_class_accuracy(told, intervals=FEW, seed=0).value == 1


def test_what_cannot_be_audited_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="set video_frames=128 or more"):
        audit(tmp_path, Prp(), num_frames=16)
    with pytest.raises(ConfigError, match="gop is 0"):
        parse(LeakSettings, {"task": {"name": "rotnet"}, "gops": [0]})
    assert "unknown pretext task 'rotne'; did you mean 'rotnet'" in refused("rotne")
    assert "unknown key 'complexity'" in refused("cvrl", "--complexity", "c2")
    assert "no task is given; name one of: cvrl, prp, rotnet" in refused()


def refused(*words):
    done = CliRunner().invoke(app, ["audit", "leaks", *words])
    assert done.exit_code != 0
    return " ".join((str(done.exception or "") + done.output).split())


def test_the_command_prints_a_table_or_json(tmp_path):
    small = "--frames 8 --input-size 32 --videos 2 --draws 4 --gop 8 --set video_frames=40 --set video_size=32"
    words = ["audit", "leaks", "rotnet", "--complexity", "c1", *small.split(), "--set", "task.stride=1"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "a"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["task"], found["num_draws"]) == ("rotnet", 8)
    assert {each["chance"] for each in found["findings"]} == {0.5}
    printed = CliRunner().invoke(app, ["run", str(tmp_path / "a" / "config.yaml")])
    assert printed.exit_code == 0, printed.output
    assert "place in the video" in printed.stdout
    assert CliRunner().invoke(app, ["audit", "leaks", "--help"]).stdout.count("Example") == 1
