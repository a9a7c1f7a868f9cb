"""Quantities for people."""


def readable_bytes(num_bytes: float) -> str:
    """Bytes in powers of 1000, e.g. ``15.4 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} TB"
