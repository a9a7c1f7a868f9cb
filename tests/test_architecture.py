"""The house as docs/architecture.md draws it: no import circles, and every room in the table."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent


def test_no_module_imports_itself_in_a_circle():
    graph = grimp.build_graph("featcache", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the circle


def test_every_room_is_in_the_table():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path for path in (ROOT / "featcache").iterdir() if (path / "__init__.py").exists()]
    modules = list((ROOT / "featcache").glob("[a-z]*.py"))
    assert len(rooms) > 15
    missing = [path.name for path in rooms if f"`{path.name}/`" not in page]
    missing += [path.name for path in modules if f"`{path.name}`" not in page]
    assert not missing


def test_nothing_that_is_shipped_needs_the_test_suites():
    for path in [*(ROOT / "featcache").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")]:
        if "testing" not in path.relative_to(ROOT).parts:
            assert "import featcache.testing" not in (text := path.read_text(encoding="utf-8")), path
            assert "from featcache.testing" not in text, path
