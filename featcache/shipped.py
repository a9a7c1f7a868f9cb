"""Where the shipped configurations and pipelines are: beside the package in a checkout, inside it when installed."""

import importlib.util
from pathlib import Path
from types import ModuleType

from featcache.errors import ConfigError, unknown_name

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / "_shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def find_config(path: Path) -> Path:
    """``path`` itself, or the shipped file of that name where there is no such file.

    Raises:
        ConfigError: Neither exists.
    """
    if path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = _folder("configs").joinpath(*parts)
    if ".." not in parts and shipped.is_file():
        return shipped
    known = sorted(str(file.relative_to(_folder("configs"))) for file in _folder("configs").rglob("*.yaml"))
    raise ConfigError(str(unknown_name("configuration", str(path), known)))


def load_pipeline(name: str) -> ModuleType:
    """Load the script ``pipelines/<name>.py`` as a module."""
    path = _folder("pipelines") / f"{name}.py"
    known = sorted(file.stem for file in _folder("pipelines").glob("*.py"))
    if name not in known:
        raise unknown_name("pipeline", name, known)
    spec = importlib.util.spec_from_file_location(f"featcache_pipeline_{name}", path)
    assert spec is not None, f"{path} is no module"
    assert spec.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
