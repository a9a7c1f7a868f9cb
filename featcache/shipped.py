"""Finds the shipped configurations and pipelines: beside the package in a checkout, inside it when installed."""

import difflib
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

from featcache.errors import ConfigError, unknown_name
from featcache.files.places import check_local

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / "_shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def find_config(path: Path) -> Path:
    """``path`` itself if that file exists, otherwise the shipped file of that name.

    Raises:
        ConfigError: Neither exists.
    """
    check_local(path)
    if path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = _folder("configs").joinpath(*parts)
    if ".." not in parts and shipped.is_file():
        return shipped
    known: dict[str, list[str]] = {}
    for file in sorted(_folder("configs").rglob("*.yaml")):
        known.setdefault(file.stem, []).append(f"configs/{file.relative_to(_folder('configs'))}")
    if close := difflib.get_close_matches(path.stem, list(known), n=1, cutoff=0.75):
        guess = f"did you mean {' or '.join(map(repr, known[close[0]]))}?"
    else:
        guess = f"shipped are {', '.join(itertools.chain(*known.values()))}"
    raise ConfigError(f"there is no file {str(path)!r}, and no shipped configuration of that name; {guess}")


def configs_by_paper() -> dict[str, dict[str, Path]]:
    """The shipped configurations: by paper, then by their name without suffix.

    The paper is what the name of the folder begins with: ``pretext`` of ``pretext`` and ``pretext_benchmark``.
    """
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(_folder("configs").glob("*/*.yaml")):
        found.setdefault(file.parent.name.partition("_")[0], {})[file.stem] = file
    return found


def load_pipeline(name: str) -> ModuleType:
    """The script ``pipelines/<name>.py`` as a module, which is loaded once."""
    module_name = f"featcache_pipeline_{name}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = _folder("pipelines") / f"{name}.py"
    known = sorted(file.stem for file in _folder("pipelines").glob("*.py"))
    if name not in known:
        raise unknown_name("pipeline", name, known)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, f"{path} is no module"
    assert spec.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
