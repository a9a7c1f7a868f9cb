"""Heartbeats: decoders beat once per packet, so that a long decode is not mistaken for a hung one."""

from collections.abc import Callable

_listener: Callable[[], None] | None = None


def beat() -> None:
    """Report progress; does nothing outside a worker."""
    if _listener is not None:
        _listener()


def listen(listener: Callable[[], None] | None) -> None:
    """Call ``listener`` at each beat of this process; ``None`` removes it."""
    global _listener
    _listener = listener
