"""Reads from a packet's headers how many frames it shows: AV1 and VP9 also have frames that are never shown."""

from collections.abc import Iterator

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6  # AV1 specification, section 6.2.2
_KEY_FRAME = 0


def num_shown(codec: str, packet: memoryview) -> int | None:
    """Number of frames that a packet shows; ``None`` if its headers cannot be read.

    Hidden frames (alternative references) are not counted; a header that shows a stored frame counts as one. Packets of
    the other indexed codecs hold one picture, which is shown.

    Args:
        codec: FFmpeg's codec name.
        packet: The packet's bytes.
    """
    try:
        match codec:
            case "av1":
                return sum(_shows_av1(kind, payload) for kind, payload in obus(packet))
            case "vp9":
                return sum(_shows_vp9(frame) for frame in _vp9_frames(packet))
            case _:
                return 1
    except (IndexError, ValueError):
        return None


def starts_av1(packet: memoryview) -> bool:
    """Whether an AV1 packet is a random access point: sequence header, then a key frame that is shown at once.

    A key frame that is shown later may be followed by frames which refer to earlier ones.
    """
    has_sequence = False
    try:
        for kind, payload in obus(packet):
            has_sequence |= kind == _SEQUENCE_HEADER
            if kind in (_FRAME_HEADER, _FRAME):
                shows_stored, frame_type, is_shown = _av1_frame(payload)
                return has_sequence and not shows_stored and frame_type == _KEY_FRAME and is_shown
    except (IndexError, ValueError):
        return False
    return False


def obus(packet: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and payload of each unit of an AV1 packet (specification, section 5.3).

    Raises:
        ValueError: The bytes are not a sequence of units.
        IndexError: The bytes end within a unit.
    """
    at = 0
    while at < len(packet):
        header = packet[at]
        if header & 0x80:
            raise ValueError("the forbidden bit is set")
        at += 2 if header & 0x04 else 1
        size = len(packet) - at
        if header & 0x02:
            size, at = _leb128(packet, at)
        if size < 0 or at + size > len(packet):
            raise ValueError("a unit is longer than its packet")
        yield header >> 3 & 0x0F, packet[at : at + size]
        at += size


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    raise ValueError("a size has more than 8 bytes")


def _shows_av1(kind: int, payload: memoryview) -> bool:
    if kind == _SEQUENCE_HEADER and payload[0] & 0x08:
        raise ValueError("headers of still pictures have no such fields")
    if kind not in (_FRAME_HEADER, _FRAME):
        return False
    shows_stored, _, is_shown = _av1_frame(payload)
    return shows_stored or is_shown


def _av1_frame(payload: memoryview) -> tuple[bool, int, bool]:
    """``show_existing_frame``, ``frame_type`` and ``show_frame`` from the beginning of a frame header."""
    first = payload[0]
    return bool(first & 0x80), first >> 5 & 3, bool(first & 0x10)


def _vp9_frames(packet: memoryview) -> Iterator[memoryview]:
    """Frames of a packet, which may have a superframe index at its end (VP9 specification, annex B)."""
    marker = packet[-1]
    num_frames, size_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_bytes = 2 + num_frames * size_bytes
    if marker & 0xE0 != 0xC0 or len(packet) < index_bytes or packet[-index_bytes] != marker:
        yield packet
        return
    at, sizes = 0, packet[len(packet) - index_bytes + 1 : -1]
    for number in range(num_frames):
        size = int.from_bytes(sizes[number * size_bytes : (number + 1) * size_bytes], "little")
        if size:
            yield packet[at : at + size]
        at += size


def _shows_vp9(frame: memoryview) -> bool:
    first = frame[0]
    if first >> 6 != 2:
        raise ValueError("no frame marker")
    bits = f"{first:08b}{frame[1] if len(frame) > 1 else 0:08b}"
    at = 5 if first & 0x30 == 0x30 else 4  # profile 3 has a reserved bit
    return bits[at] == "1" or bits[at + 2] == "1"  # show_existing_frame; frame_type; show_frame
