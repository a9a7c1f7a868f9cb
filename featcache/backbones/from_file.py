"""A backbone from a Python file that the user names: ``path/to/net.py:build``, for a notebook or a script.

Importing a file runs it. So a file is imported only if the user gives its path, to :func:`use_file` or on the command
line; recipes and settings hold the name ``net.py:build``, with which no file can be found.
"""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from featcache.backbones.base import Builder
from featcache.errors import ConfigError, PluginError

_PATTERN = re.compile(r"(?P<path>[^+]+\.py):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    path: Path
    build: Builder


_KNOWN: dict[str, _Known] = {}
"""Functions that this process was told of, by name."""


def is_of_file(name: str) -> bool:
    """Whether a name, or a user's argument, stands for a function of a Python file."""
    return _PATTERN.fullmatch(name) is not None


def builder_of_file(name: str) -> Builder | None:
    """The function for a name that :func:`use_file` has returned in this process."""
    return _KNOWN[name].build if name in _KNOWN else None


def name_of(given: str) -> str:
    """The name of a backbone that a user gives on the command line; a file is made known by :func:`use_file`."""
    return use_file(given) if is_of_file(given) else given


def use_file(given: str) -> str:
    """Make a backbone of a Python file known to this process. The file is run.

    Args:
        given: ``path/to/net.py:build``: the file, and the name of a function of a registry name and weights
            (``default``, ``random`` or a file's path) that returns a :class:`featcache.backbones.Backbone`.

    Returns:
        Its name, e.g. ``net.py:build``, for :func:`featcache.backbones.build_backbone`, settings and recipes.

    Raises:
        ConfigError: The argument has another form, there is no such file, or another file of that name is in use.
        PluginError: The file cannot be run, or has no such function.
    """
    found = _PATTERN.fullmatch(given)
    if found is None:
        raise ConfigError(f"{given!r} names no function of a Python file; write path/to/net.py:build")
    path, function = Path(found["path"]).expanduser().resolve(), found["function"]
    name = f"{path.name}:{function}"
    if not path.is_file():
        raise ConfigError(f"backbone {given!r}: there is no file {found['path']!r}; give its path")
    if name in _KNOWN:
        if _KNOWN[name].path != path:
            raise ConfigError(f"{_KNOWN[name].path} and {path} would both be backbone {name!r}; rename one of them")
        return name
    build = getattr(_module(path), function, None)
    if not callable(build):
        raise PluginError(f"backbone {given!r}: {path.name} has no function {function!r}; give one that it has")
    _KNOWN[name] = _Known(path=path, build=build)
    return name


def _module(path: Path) -> object:
    module_name = f"featcache_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, f"{path} is no module"
    assert spec.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise PluginError(f"{path} cannot be run ({type(error).__name__}: {error}); fix it") from error
    return module


def files_in_use() -> tuple[str, ...]:
    """The arguments with which another process makes the same functions known by :func:`use_file`."""
    return tuple(f"{known.path}:{name.rpartition(':')[2]}" for name, known in _KNOWN.items())
