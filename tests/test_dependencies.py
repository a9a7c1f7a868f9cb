"""Every runtime dependency is imported by what is shipped, and what is imported is a dependency."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Modules that are used without an import statement of their own, and the words that use them.
WITHOUT_IMPORT = {
    "tensorboard": "from torch.utils.tensorboard import",
    "skimage": 'package="skimage"',  # photographs of the motion set
}
# Conformance suites are classes for pytest, buckets those of a local server: libraries of whoever runs them.
OF_THE_TESTER = {"pytest", "hypothesis", "moto"}


def shipped() -> list[Path]:
    return [
        path
        for folder in ("featcache", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if "testing" not in path.parts
    ]


def imported(paths: list[Path]) -> set[str]:
    names: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def modules_of(requirements: list[str]) -> dict[str, set[str]]:
    """The modules of each distribution that is required, as they are installed here."""
    names = [re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements]
    by_name: dict[str, set[str]] = {name: set() for name in names}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            for name in names:
                if re.sub(r"[-_.]+", "-", distribution).lower() == re.sub(r"[-_.]+", "-", name).lower():
                    by_name[name].add(module)
    return by_name


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_dependency_is_used():
    used = imported(shipped())
    text = "".join(path.read_text(encoding="utf-8") for path in shipped())
    used |= {module for module, words in WITHOUT_IMPORT.items() if words in text}
    unused = [name for name, modules in modules_of(PROJECT["dependencies"]).items() if not modules & used]
    assert unused == []


def test_every_import_is_a_dependency_or_an_extra():
    required = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    known = set().union(*modules_of(required).values()) | set(sys.stdlib_module_names) | {"featcache", "pipelines"}
    known.add("pydantic_core")  # the half of pydantic that its pages name for schemas
    # Of extras that need not be installed here, the module is named as the distribution is.
    known |= {re.split(r"[\[<>=!~; ]", one)[0].replace("-", "_") for one in required} | {"pynvml", "faiss"}
    assert sorted(imported(shipped()) - known) == []


def test_suites_need_no_more_than_what_is_shipped_and_a_test_library():
    suites = imported(list((ROOT / "featcache" / "testing").glob("*.py")))
    known = set().union(*modules_of(PROJECT["dependencies"]).values()) | set(sys.stdlib_module_names) | {"featcache"}
    assert sorted(suites - known - OF_THE_TESTER) == []
