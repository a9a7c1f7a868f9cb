"""The conformance suite over every registered decoder and every kind of video."""

import random
import sys

import pytest

from featcache.data.decoding import DECODERS, VideoReader, available, open_video
from featcache.data.decoding.pyav import PyAVReader
from featcache.data.scan import scan
from featcache.errors import FeatcacheError, UnknownNameError, VideoError
from featcache.plugins import BUILT_IN
from featcache.testing.decoders import INEXACT, UNREADABLE, DecoderTests
from featcache.testing.plugins import put_package
from featcache.testing.videos import VIDEO_KINDS

NAMES = [place.name for place in DECODERS.places() if place.origin == BUILT_IN]


class TestBuiltIn(DecoderTests):
    names = NAMES
    inexact = INEXACT
    unreadable = UNREADABLE

    @pytest.fixture(autouse=True)
    def _there(self, name, need_decoder):
        need_decoder(name)


def test_the_default_is_exact_everywhere_and_the_others_say_where_they_are_not():
    assert NAMES == ["decord", "pyav", "torchcodec"]
    assert DECODERS.load("pyav").exact
    assert set(INEXACT) == {name for name in NAMES if not DECODERS.load(name).exact}
    for name, kinds in INEXACT.items():
        assert kinds, name
        assert kinds <= set(VIDEO_KINDS)
        assert DECODERS.load(name).note


@pytest.mark.parametrize("decoder", NAMES)
def test_readers_follow_the_protocol(decoder, video, need_decoder):
    need_decoder(decoder)
    with open_video(video("h264"), decoder=decoder) as reader:
        assert isinstance(reader, VideoReader)
        assert reader.codec == "h264"


def test_unknown_decoders_are_named(video):
    with pytest.raises(UnknownNameError, match="did you mean 'decord'"):
        open_video(video("h264"), decoder="decordd")
    with pytest.raises(UnknownNameError, match="decoder"):
        available("ffmpeg")


@pytest.mark.parametrize("method", ["_open", "_decode"])
def test_any_exception_of_a_decoder_is_the_video_s_fault_and_names_it(method, video, monkeypatch):
    def broken(*args):
        raise IndexError("list index out of range")

    with open_video(video("h264")) as reader:
        monkeypatch.setattr(PyAVReader, method, broken)
        with pytest.raises(VideoError, match="pyav fails with IndexError: list index out of range") as caught:
            list(reader.read([20])) if method == "_decode" else open_video(video("h264"))
        assert caught.value.status == "undecodable"
        with pytest.raises(ValueError, match="strictly increasing"):
            list(reader.read([3, 2]))


def test_a_mutated_transport_stream_is_a_video_or_undecodable(video, tmp_path):
    """PyAV finds no stream for packets of a programme that begins later, and raises IndexError for some of these."""
    whole = video("h264_transport_stream").read_bytes()
    statuses = set()
    for seed in (*range(20), 98, 142, 175, 391, 392):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice([1, 5, 30, 200])):
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(3000)
            data[at] = rng.randrange(256)
        path = tmp_path / "mutated.ts"
        path.write_bytes(data)
        try:
            with open_video(path) as reader:
                list(reader.read(range(reader.timeline.num_frames)))
            statuses.add("ok")
        except VideoError as error:
            statuses.add(error.status)
    assert statuses == {"ok", "undecodable"}


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_an_absent_library_is_one_sentence_and_no_bad_video(decoder, video, monkeypatch):
    monkeypatch.setitem(sys.modules, decoder, None)
    problem = available(decoder)
    assert problem is not None
    assert f"pip install 'featcache[{decoder}]'" in problem
    with pytest.raises(FeatcacheError, match="pip install") as caught:
        open_video(video("h264"), decoder=decoder)
    assert type(caught.value) is FeatcacheError


def test_torchcodec_without_ffmpeg_is_one_sentence_and_no_bad_video(video, monkeypatch):
    torchcodec = pytest.importorskip("torchcodec")
    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    problem = available("torchcodec")
    assert problem is not None
    assert "apt-get install ffmpeg" in problem
    with pytest.raises(FeatcacheError, match="FFmpeg") as caught:
        open_video(video("h264"), decoder="torchcodec")
    assert type(caught.value) is FeatcacheError


def test_a_decoder_of_a_package_reads_in_worker_processes_too(video, tmp_path, monkeypatch):
    source = """
from pathlib import Path
from featcache.data.decoding import Decoder
from featcache.data.decoding.pyav import open_pyav

def open_here(path):
    Path(__file__).with_suffix(".used").touch()
    return open_pyav(path)

LAB = Decoder(open=open_here, exact=True, note="As PyAV.")
"""
    entries = {"featcache.decoders": {"lab": "labdecoder:LAB"}}
    put_package(tmp_path / "site", "labdecoder", files={"labdecoder.py": source}, entries=entries)
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = video("h264")
    manifest = scan(path, decoder="lab", num_workers=1)
    assert [record.status for record in manifest.videos] == ["ok"]
    assert (tmp_path / "site" / "labdecoder.used").exists()
