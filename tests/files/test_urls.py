"""Places in buckets as text and as paths."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.files.urls import SCHEMES, absolute, beside, place_of, shown, url_of, without_scheme

NAMES = st.text(string.ascii_letters + "%?# ü.", min_size=1).filter(lambda name: name not in {".", ".."})


@given(st.sampled_from(SCHEMES), st.lists(NAMES, min_size=1, max_size=4))
def test_a_url_survives_pathlib(scheme, names):
    url = f"{scheme}://{'/'.join(names)}"
    for place in (url, Path(url), Path(url).parent / names[-1], Path(str(Path(url)))):
        assert url_of(place) == shown(place) == url
    assert absolute(Path(url)) == url
    assert without_scheme(url) == "/".join(names)
    assert url_of(place_of(url, "a/b.mp4")) == f"{url}/a/b.mp4"
    assert url_of(place_of("/disk", url)) == url
    assert place_of(url, "/disk/a.mp4") == Path("/disk/a.mp4")


@pytest.mark.parametrize(
    "text", ["a.mp4", "/s3/a", "s3:/bucket/a", "12:30/x.mp4", "C:/x", "file:///x", "https://host/x"]
)
def test_anything_else_is_a_path_of_this_machine(text):
    assert url_of(text) is None
    assert shown(text) == without_scheme(text) == text


@pytest.mark.parametrize(
    ("path", "there"),
    [("../a.mp4", "s3://b/x/a.mp4"), ("../../a.mp4", "s3://b/a.mp4"), ("../../../a.mp4", "../../../a.mp4")],
)
def test_a_path_may_lead_out_of_a_folder_and_not_out_of_the_bucket(path, there):
    assert beside("s3://b/x/y", path) == there
