"""Random access points: pictures from which decoding may start, because no later frame refers to earlier ones."""

from collections.abc import Iterator

from featcache.data.decoding.shown import starts_av1

_IDR = {"h264": frozenset({5}), "hevc": frozenset({19, 20})}
_PICTURES = {"h264": range(1, 6), "hevc": range(32)}
_LENGTH_SIZE_BYTE = {"h264": 4, "hevc": 21}


def is_random_access(codec: str, packet: memoryview, *, extradata: bytes) -> bool:
    """Whether decoding from this key packet gives exactly the frames that decoding the whole stream gives.

    H.264 and HEVC also flag open-GOP pictures and recovery points as key frames, after which frames may still refer
    to earlier ones: only IDR pictures count. So do AV1's key frames that are shown later than they are decoded: only
    those that are shown at once count. In the other indexed codecs (VP9, MJPEG) every key frame resets the decoder.

    Args:
        codec: FFmpeg's codec name.
        packet: The packet's bytes.
        extradata: The stream's configuration record (avcC or hvcC), which gives the width of NAL unit lengths.
    """
    if codec == "av1":
        return starts_av1(packet)
    if codec not in _IDR:
        return True
    if len(extradata) <= _LENGTH_SIZE_BYTE[codec] or extradata[0] != 1:
        return False  # start codes instead of lengths, which MP4 and Matroska do not use
    length_size = (extradata[_LENGTH_SIZE_BYTE[codec]] & 3) + 1
    kinds = [kind for kind in nal_types(codec, packet, length_size=length_size) if kind in _PICTURES[codec]]
    return bool(kinds) and all(kind in _IDR[codec] for kind in kinds)


def nal_types(codec: str, packet: memoryview, *, length_size: int) -> Iterator[int]:
    """Types of the length-prefixed NAL units of a packet (H.264 table 7-1, HEVC table 7-1)."""
    at = 0
    while at + length_size < len(packet):
        size = int.from_bytes(packet[at : at + length_size], "big")
        header = packet[at + length_size]
        yield header & 0x1F if codec == "h264" else (header >> 1) & 0x3F
        at += length_size + size
