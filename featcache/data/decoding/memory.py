"""Limits the memory of a decoding process, so that a file with a false header cannot exhaust the machine."""

import sys
from pathlib import Path

# The largest pictures that cameras make (8192 x 8192): larger ones come from a damaged header and need gigabytes each.
MAX_PIXELS = 1 << 26
# Beyond the libraries: 8K video with 16 reference frames needs 1 GB.
HEADROOM_BYTES = 2 << 30

_capped = False


def cap_memory(headroom_bytes: int = HEADROOM_BYTES) -> None:
    """Limit how much this process may allocate beyond its present memory; for worker processes (Linux)."""
    global _capped
    if sys.platform != "linux":
        return
    import resource  # no such module on Windows

    now = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData:")
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min([now + headroom_bytes, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    _capped = True


def is_capped() -> bool:
    """Whether a lack of memory in this process is the video's fault: its limit was reached, not the machine's."""
    return _capped


def too_much() -> str:
    """The reason to record for a video that needs too much memory."""
    return f"decoding it takes more than {HEADROOM_BYTES >> 30} GiB of memory, as only damaged files ask for"
