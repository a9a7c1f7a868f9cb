from featcache.data.manifest import Manifest
from featcache.data.notices import notices
from featcache.data.types import VideoRecord


def video(video_id: str, **changes: object) -> VideoRecord:
    return VideoRecord(**{"id": video_id, "path": f"{video_id}.mp4", **changes})


def test_ordinary_videos_are_worth_no_word():
    videos = (video("a", content_hash="1"), video("b", content_hash="2", pixel_aspect=1.005), video("c"))
    assert list(notices(Manifest(root="/data", videos=videos))) == []


def test_each_kind_is_counted_and_one_video_named():
    videos = (
        video("a", content_hash="1"),
        video("b", content_hash="1", pixel_aspect=0.5),
        video("c", pixel_aspect=16 / 11),
        video("d", transfer="hlg"),
        video("e", transfer="pq", pixel_aspect=2.0, status="undecodable", reason="broken"),
    )
    left_out, same, square, hdr = notices(Manifest(root="/data", videos=videos, left_out={".gif": 3, "hidden": 1}))
    assert left_out == "left out of '/data', for their names are not those of videos: 4 (3 .gif, 1 hidden)"
    assert same.startswith("videos with the content of another one, under another name: 1, e.g. 'b' (that of 'a')")
    assert square.startswith("videos whose pixels are not square: 2 of 4, e.g. 'b' (width over height 0.5)")
    assert hdr.startswith("videos in HDR: 1 of 4, e.g. 'd' (hlg)")
    assert "docs/decoding.md" in square
    assert "docs/decoding.md" in hdr


def test_many_kinds_are_cut_short():
    left_out = {f".{letter}": 1 for letter in "abcdefghij"}
    (sentence,) = notices(Manifest(root="/data", videos=(video("a"),), left_out=left_out))
    assert sentence.endswith("10 (1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f, 1 .g, 1 .h, 2 other kinds)")
