import pytest

from featcache.data.decoding.access import is_random_access, nal_types

AVCC = bytes([1, 100, 0, 31, 0xFF, 0xE1])  # four-byte lengths
HVCC = bytes([1, *[0] * 20, 0xFF, 0])


def h264(*kinds: int, length_size: int = 4) -> memoryview:
    units = [bytes([0x60 | kind]) + bytes(5) for kind in kinds]
    return memoryview(b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in units))


def hevc(*kinds: int) -> memoryview:
    units = [bytes([kind << 1, 1]) + bytes(5) for kind in kinds]
    return memoryview(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


def test_nal_types_are_read_in_order():
    assert list(nal_types("h264", h264(9, 7, 8, 6, 5, 5), length_size=4)) == [9, 7, 8, 6, 5, 5]
    assert list(nal_types("h264", h264(7, 5, length_size=2), length_size=2)) == [7, 5]
    assert list(nal_types("hevc", hevc(32, 33, 34, 19), length_size=4)) == [32, 33, 34, 19]


@pytest.mark.parametrize(("kinds", "fresh"), [((7, 8, 5), True), ((5, 5), True), ((6, 1), False), ((7, 8), False)])
def test_h264_starts_at_idr_pictures_only(kinds, fresh):
    assert is_random_access("h264", h264(*kinds), extradata=AVCC) is fresh


@pytest.mark.parametrize(("kinds", "fresh"), [((32, 33, 34, 19), True), ((20,), True), ((21,), False), ((16,), False)])
def test_hevc_starts_at_idr_pictures_not_at_clean_random_access(kinds, fresh):
    assert is_random_access("hevc", hevc(*kinds), extradata=HVCC) is fresh


def test_start_codes_and_short_records_are_no_proof():
    assert not is_random_access("h264", memoryview(b"\x00\x00\x00\x01\x65\x88"), extradata=b"\x00\x00\x00\x01\x67")
    assert not is_random_access("h264", h264(5), extradata=b"")


def test_garbage_lengths_end_the_walk():
    assert list(nal_types("h264", memoryview(b"\xff\xff\xff\xff\x65"), length_size=4)) == [5]
    assert list(nal_types("h264", memoryview(b"\x00"), length_size=4)) == []


def test_every_key_frame_of_other_codecs_is_a_start():
    assert is_random_access("vp9", memoryview(b"\x82"), extradata=b"")
