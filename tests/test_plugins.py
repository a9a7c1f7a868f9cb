"""Registries: what is found, what is imported when, and what a package does wrong."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from featcache.errors import ConfigError, FeatcacheError, PluginError, UnknownNameError
from featcache.plugins import BUILT_IN, Place, Registry
from featcache.testing.plugins import put_package

GROUP = "featcache.toys"
TOYS: Registry[Callable[[], str]] = Registry(
    kind="toy",
    group=GROUP,
    entry=Callable,
    built_in=(
        Place(name="ball", target="featcache.units:readable_bytes", summary="it rolls"),
        Place(name="kite", target="featcache.units:readable_bytes", summary="it flies", library="windd", extra="wind"),
        Place(name="+", target="featcache.units:readable_bytes", summary="two", pattern="<a>+<b>", example="ball+ball"),
        Place(name="box/", target="featcache.units:readable_bytes", summary="any", pattern="box/<n>", example="box/1"),
    ),
    hint="Look into the box.",
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package that offers toys."""

    def make(name="labtoys", *, source="def make():\n    return 'made'\n", entries):
        folder = tmp_path / name
        put_package(folder, name, version="0.3", files={f"{name}.py": source}, entries={GROUP: entries})
        monkeypatch.syspath_prepend(folder)
        return folder

    yield make
    for name in [module for module in sys.modules if module.startswith("labtoys")]:
        del sys.modules[name]


def test_what_is_built_in_and_what_a_package_adds(package):
    package(entries={"robot": "labtoys:make"})
    assert TOYS.names() == ["ball", "kite", "robot"]
    assert [place.title for place in TOYS.places()] == ["ball", "kite", "robot", "<a>+<b>", "box/<n>"]
    robot = TOYS.find("robot")
    assert (robot.origin, robot.summary) == ("labtoys 0.3", "labtoys of a lab")
    assert TOYS.find("ball").origin == BUILT_IN
    assert "labtoys" not in sys.modules, "a list imports nothing"
    assert TOYS.load("robot")() == "made"


@pytest.mark.parametrize(
    ("name", "place"), [("ball", "ball"), ("box/7", "box/"), ("ball+kite", "+"), ("box/1+box/2", "+")]
)
def test_families(name, place):
    assert TOYS.find(name).name == place


def test_a_package_adds_a_family(package):
    package(entries={"lab/": "labtoys:make"})
    assert TOYS.find("lab/any").name == "lab/"
    assert TOYS.places()[-1].title == "lab/<name>"


@pytest.mark.parametrize(("name", "guess"), [("robt", "robot"), ("Ball", "ball"), ("bx/1", "box/1"), ("bal", "ball")])
def test_did_you_mean_covers_all(name, guess, package):
    package(entries={"robot": "labtoys:make"})
    with pytest.raises(UnknownNameError, match=rf"unknown toy '{name}'; did you mean '{guess}'\? Look into the box."):
        TOYS.load(name)


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("import nothing_of_this_name", "labtoys:make", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("1 / 0", "labtoys:make", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no licence')", "labtoys:make", "SystemExit: no licence"),
        ("def (", "labtoys:make", "SyntaxError: "),
        ("", "labtoys:make", "AttributeError: module 'labtoys' has no attribute 'make'"),
        ("", "labtoys.py", "ValueError: 'labtoys.py' is not written as module:attribute"),
    ],
)
def test_a_broken_package_is_named_and_stops_only_what_asks_for_it(source, target, why, package):
    package(source=source, entries={"robot": target})
    with pytest.raises(PluginError) as caught:
        TOYS.load("robot")
    assert str(caught.value).startswith(f"toy 'robot' of package labtoys 0.3 cannot be loaded from {target} ({why}")
    assert str(caught.value).endswith("fix or uninstall the package")
    assert callable(TOYS.load("ball"))
    assert "robot" in TOYS.names()


def test_an_entry_of_another_type_is_refused(package):
    package(source="make = 3", entries={"robot": "labtoys:make"})
    with pytest.raises(
        PluginError, match=r"toy 'robot' of package labtoys 0.3 is no Callable: labtoys:make is of type int"
    ):
        TOYS.load("robot")


def test_a_name_that_is_offered_twice_is_refused_and_others_are_not(package):
    package(entries={"ball": "labtoys:make", "robot": "labtoys:make"})
    with pytest.raises(PluginError, match=r"'ball' is offered twice, by featcache itself and by package labtoys 0.3"):
        TOYS.load("ball")
    assert TOYS.load("robot")() == "made"


def test_entry_points_that_cannot_be_read_are_named_and_stop_nothing(package, caplog):
    package(entries={"robot": "labtoys:make"})
    folder = package("labtoys-odd", entries={"kite": "labtoys:make"})
    (file,) = folder.glob("*.dist-info/entry_points.txt")
    file.write_text("[console_scripts]\nno equals sign\n")
    assert TOYS.load("ball") is TOYS.load("box/1")
    assert TOYS.names() == ["ball", "kite", "robot"]
    assert "the entry points of package labtoys-odd cannot be read (" in caplog.text


def test_a_package_that_is_on_the_path_twice_counts_once(package, tmp_path, monkeypatch):
    package(entries={"robot": "labtoys:make"})
    put_package(tmp_path / "older", "labtoys", version="0.1", files={}, entries={GROUP: {"robot": "older:make"}})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "older")])
    assert TOYS.find("robot").origin == "labtoys 0.3"


def test_a_library_that_is_not_installed():
    with pytest.raises(ConfigError, match=r"'kite' needs the library windd; run: pip install 'featcache\[wind\]'"):
        TOYS.load("kite")


def test_errors_of_plug_ins_are_the_user_s_to_mend():
    assert issubclass(PluginError, FeatcacheError)


def test_it_is_light():
    code = "import sys, featcache.plugins; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
