"""The probe that docs/probes.md shows is a probe."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from featcache.evaluation import probe as registry
from featcache.evaluation.probe import Prediction, Task, register_probe
from featcache.testing import probes as suite

PAGE = Path(__file__).parents[2] / "docs" / "probes.md"


@pytest.fixture
def centroid(monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    (block,) = re.findall(r"```python\n(@dataclass.*?)```", PAGE.read_text(), re.DOTALL)
    names = {"dataclass": dataclass, "ClassVar": ClassVar, "Any": Any, "np": np, "__name__": "centroid"}
    exec(block, {**names, "Task": Task, "Prediction": Prediction, "register_probe": register_probe})
    return "centroid"


@pytest.mark.parametrize("check", suite.CLASS_CHECKS, ids=lambda check: check.__name__)
def test_the_example_conforms(centroid, check):
    check(centroid)
