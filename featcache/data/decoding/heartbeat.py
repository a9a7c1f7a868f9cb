"""Signs of life: decoders beat once a packet, so that a long decode is told from a hung one."""

from collections.abc import Callable

_listener: Callable[[], None] | None = None


def beat() -> None:
    """Say that work goes on; does nothing outside a worker."""
    if _listener is not None:
        _listener()


def listen(listener: Callable[[], None] | None) -> None:
    """Have ``listener`` called at each beat of this process; ``None`` stops it."""
    global _listener
    _listener = listener
