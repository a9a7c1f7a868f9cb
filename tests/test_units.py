import pytest

from featcache.units import readable_bytes


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (15_400, "15.4 kB"), (2.5e6, "2.5 MB"), (7e9, "7.0 GB"), (1.234e12, "1.23 TB")],
)
def test_bytes_are_readable(num_bytes, text):
    assert readable_bytes(num_bytes) == text
