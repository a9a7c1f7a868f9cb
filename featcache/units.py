"""Formats quantities and texts for people to read."""

import math
import re

# Control characters (escape sequences begin with one), line and paragraph separators, and marks of text direction.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Make text from a file safe to print: characters that control a terminal become ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: Any text.
        lines: Whether line feeds and tabs are kept.
    """
    if text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: match[0] if lines and match[0] in "\n\t" else _escaped(match[0]), text)


def printable_json(text: str) -> str:
    r"""Make JSON safe to print: such characters, which occur only inside its strings, become ``\u202e``."""
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
    """Seconds in readable form, e.g. ``2 min 05 s``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
