"""Videos are scanned, and decoding processes start, while torch is imported and backbones are built."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.errors import ConfigError, ManifestError, UnknownNameError
from featcache.extract import filling, work
from featcache.extract import scanning as scanning_module
from featcache.extract.run import extract
from featcache.extract.scanning import scanning
from tests.extract.conftest import Make


def test_the_scan_and_the_decoders_go_on_while_backbones_are_built(
    make: Make, listing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were one after the other, the building would wait here for ever."""
    seen, started = threading.Event(), threading.Event()
    decoders, prepare = work.decoders, filling.prepare

    def start(*args: object, **kwargs: object) -> object:
        started.set()
        return decoders(*args, **kwargs)

    def build(*args: object, **kwargs: object) -> object:
        assert started.is_set()
        assert seen.wait(60), "no video was scanned while backbones were built"
        return prepare(*args, **kwargs)

    monkeypatch.setattr(work, "decoders", start)
    monkeypatch.setattr(filling, "prepare", build)
    result = extract(make(source=str(listing)), on_scan=lambda done, total: seen.set())
    assert (result.videos_ok, result.rows_written) == (16, 32)


def test_a_fault_of_the_backbone_is_told_before_one_of_the_source(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = make(source=str(tmp_path / "empty"))
    with pytest.raises(ManifestError, match="holds no video"):
        extract(settings)
    feature = settings.features[0].model_copy(update={"layer": "nosuch"})
    with pytest.raises(UnknownNameError, match="nosuch"):
        extract(settings.model_copy(update={"features": (feature,)}))
    assert not Path(settings.out).exists()


def test_a_block_that_fails_does_not_wait_for_the_scan(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, goes_on = threading.Event(), threading.Event()
    told: list[tuple[int, int]] = []

    def endless(settings: object, *, on_scan: Callable[[int, int], None], **scan: object) -> None:
        try:
            on_scan(1, 9)
            goes_on.wait(60)
            on_scan(2, 9)
        finally:
            ended.set()

    monkeypatch.setattr(scanning_module, "read_source", endless)
    with pytest.raises(ConfigError, match="of the block"), scanning(make(), on_scan=lambda *at: told.append(at)):
        raise ConfigError("a fault of the block")
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(60), "the scan ends at its next video"
    assert (2, 9) not in told


def test_an_extraction_starts_without_torch() -> None:
    code = (
        "import sys; from featcache.extract.run import extract; print({'torch', 'timm', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"
