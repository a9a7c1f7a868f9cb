"""How much of the house a method takes outside networks and tests; import circles; lines of cli/.

    python benchmarks/house.py            # this tree
    python benchmarks/house.py OLD NEW    # two trees beside each other

What counts as a method's: everything in ``featcache/methods/<method>/``; the file ``pipelines/<method>.py``; elsewhere
in ``featcache/`` a file that is named for it, a class or function at the top of a file that is named for it, and any
other line that names one of its modules. Networks, backbones, probes, loaders, training and tests are shared, and count
for none.
"""

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    "scale": ("scale",),
    "svt": ("svt",),
    "advise": ("advise", "tmm", "r3d50", "temporal", "plugged", "pretext"),
    "finetune": ("finetune", "finetuned", "fine"),
}
"""Words in names of files, classes and functions by which a method is known."""
SHARED = ("networks", "backbones", "testing", "loaders", "training", "exchange", "extract", "store", "data", "metrics")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")

CIRCLES = """
import grimp
graph = grimp.build_graph("featcache")
near = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}

def beyond(module):
    seen, left = set(), list(near[module])
    while left:
        each = left.pop()
        if each not in seen:
            seen.add(each)
            left += near[each]
    return seen

far = {module: beyond(module) for module in near}
rings = {frozenset(each for each in far[module] if module in far[each]) for module in near if module in far[module]}
print(len(rings))
"""


def words_of(name: str) -> set[str]:
    """Words of a name in any case."""
    return {word.lower() for part in name.split("_") for word in _CAMEL.findall(part)}


def method_lines(root: Path, method: str) -> dict[str, int]:
    """Lines of a method by file, relative to the tree."""
    found: dict[str, int] = {}
    for path in sorted((root / "featcache").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        room = path.relative_to(root / "featcache").parts[0]
        lines = path.read_text(encoding="utf-8").splitlines()
        if name.startswith(f"featcache/methods/{method}/"):
            count = len(lines)
        elif room in SHARED or (room == "methods" and "/methods/" in name and len(path.parts) - len(root.parts) > 3):
            continue
        elif room in ("cli", "evaluation", "report", "commands") and words_of(path.stem) & set(WORDS[method]):
            count = len(lines)
        else:
            count = len(set(named_lines(lines, method, is_probe_room=room == "evaluation")))
        if count:
            found[name] = count
    pipeline = root / "pipelines" / f"{method}.py"
    if pipeline.exists():
        found[pipeline.relative_to(root).as_posix()] = len(pipeline.read_text(encoding="utf-8").splitlines())
    return found


def named_lines(lines: list[str], method: str, *, is_probe_room: bool) -> Iterator[int]:
    """Numbers of the lines of a file that are a method's."""
    for node in ast.parse("\n".join(lines)).body:
        is_named = isinstance(node, ast.ClassDef | ast.FunctionDef) and words_of(node.name) & set(WORDS[method])
        if is_named and not is_probe_room:
            assert isinstance(node, ast.ClassDef | ast.FunctionDef)
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield from range(first, (node.end_lineno or node.lineno) + 1)
    for number, line in enumerate(lines, start=1):
        if re.search(rf"methods[./]{method}\b", line):
            yield number


def circles(root: Path) -> str:
    """Number of import circles of a tree."""
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{CIRCLES}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    return done.stdout.strip()


def cli_lines(root: Path) -> int:
    """Lines of the command line."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / "featcache/cli").rglob("*.py"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--files", action="store_true", help="List the lines of each file.")
    args = parser.parse_args()
    trees = [tree.resolve() for tree in args.trees]
    for method in WORDS:
        counts = [method_lines(tree, method) for tree in trees]
        cells = [f"{len(each):3d} files {sum(each.values()):6,d} lines" for each in counts]
        share = f"  {sum(counts[-1].values()) / sum(counts[0].values()):.0%}" if len(counts) > 1 else ""
        print(f"{method:10} " + "   ".join(cells) + share)
        if args.files:
            for tree, each in zip(trees, counts, strict=True):
                print("\n".join(f"    {tree.name}/{name}: {lines}" for name, lines in each.items()))
    print(f"{'cli':10} " + "   ".join(f"{cli_lines(tree):16,d} lines" for tree in trees))
    print(f"{'circles':10} " + "   ".join(f"{circles(tree):>16}      " for tree in trees))


if __name__ == "__main__":
    main()
