"""Quantities and texts for people."""

import math
import re

# Control characters (escape sequences begin with one), line and paragraph separators, and what turns text around.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Text out of a file as it may be shown: what a terminal would obey is written ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: Any text.
        lines: Whether line feeds and tabs stay as they are.
    """
    if text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: match[0] if lines and match[0] in "\n\t" else _escaped(match[0]), text)


def printable_json(text: str) -> str:
    r"""JSON as it may be shown: such characters, which stand inside of its strings alone, as ``\u202e``."""
    return _UNSEEN.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def readable_bytes(num_bytes: float) -> str:
    """Bytes in powers of 1000, e.g. ``15.4 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} TB"


def duration(seconds: float) -> str:
    """Seconds for people, e.g. ``2 min 05 s``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
