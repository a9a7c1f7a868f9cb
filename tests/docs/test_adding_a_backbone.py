"""docs/adding-a-backbone.md, followed to the letter."""

import json
import sys

import pytest

import featcache
from featcache.backbones import from_file
from featcache.errors import PluginError, StoreError
from featcache.testing.backbones import CHECKS, BackboneTests
from featcache.testing.videos import write_video
from tests.docs import pages

PAGE = "adding-a-backbone.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return pages.install(PAGE, tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("labnets", None)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_suite_of_the_page_passes(installed, check):
    source: dict[str, type[BackboneTests]] = {}
    exec(pages.files_of(PAGE)["test_labnets.py"], source)  # type: ignore[arg-type]
    suite = source["TestMine"]()
    assert suite.names == ("patches",)
    suite.test_conforms("patches", check)


def test_commands_yaml_and_stores_without_the_package(site, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    (tmp_path / "labnets.py").write_text(pages.files_of(PAGE)["labnets.py"])
    (tmp_path / "extract.yaml").write_text(pages.files_of(PAGE)["extract.yaml"])
    package, script, search = pages.commands_of(PAGE)
    listing = "featcache backbones --json"
    done = pages.run(site, tmp_path, listing, package, "featcache run extract.yaml", script, f"{search} --json")
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.JSONDecoder().raw_decode(done.stdout)[0]}
    assert (listed["patches"]["origin"], listed["clip-l14"]["origin"]) == ("labnets 0.1", "built in")
    hits = json.loads(done.stdout[done.stdout.rindex("\n{") :])
    assert hits, done.stdout

    stores = {name: featcache.open(tmp_path / "stores" / name) for name in ("mine", "again", "script")}
    (mine, again, script_made) = (next(iter(store.features.values()))[0] for store in stores.values())
    assert mine == again
    assert (mine.backbone, script_made.backbone) == ("patches", "labnets.py:build")
    with stores["mine"].feature() as features:
        assert features[0].shape == (32,)
    with pytest.raises(StoreError, match="made with backbone 'patches', which no installed package offers; install"):
        featcache.encoder(tmp_path / "stores" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(from_file, "_KNOWN", {})
    with pytest.raises(PluginError, match="is run only where you say where it is"):
        featcache.encoder("stores/script")
    featcache.use_backbone("labnets.py:build")
    encoded = featcache.encoder("stores/script")(tmp_path / "videos" / "a.mp4")
    assert next(iter(encoded.features.values())).shape[1:] == (32,)
