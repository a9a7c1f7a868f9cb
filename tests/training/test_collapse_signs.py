"""Signs of collapse and of a bottleneck, at both ends of every measure."""

import math

import pytest

from featcache.training.collapse import bottleneck_sign, collapse_sign

HEALTHY = {"feature_deviation": 0.8, "entropy": 2.0, "mean_entropy": 4.0}


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({}, ""),
        ({"feature_deviation": 0.05}, "all videos have nearly one feature"),
        ({"mean_entropy": 0.01, "entropy": 0.01}, "all views fall on one prototype"),
        ({"entropy": math.log(256) * 0.99}, "assignments say nothing"),
    ],
)
def test_each_way_to_collapse_has_its_name(change, sign):
    said = collapse_sign({**HEALTHY, **change}, num_prototypes=256)
    assert said.startswith(sign)
    assert bool(said) == bool(sign)


@pytest.mark.parametrize(("workers", "who"), [(0, "1 thread"), (1, "1 process"), (4, "4 processes")])
def test_waiting_names_who_decodes(workers, who):
    assert bottleneck_sign({"wait_share": 0.09}, workers=workers) == ""
    said = bottleneck_sign({"wait_share": 0.42}, workers=workers)
    assert said.startswith(f"42% of the time went into waiting for videos: decoding, by {who}, is the bottleneck")
