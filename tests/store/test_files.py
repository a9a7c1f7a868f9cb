"""A store reaches its files through one protocol, and through nothing else."""

import ast
import re
from pathlib import Path

import pytest

import featcache.store
from featcache.files.base import Files

MODULES = sorted(Path(featcache.store.__file__).parent.glob("*.py"))

REACHING = {"os", "mmap", "shutil", "glob", "tempfile", "fcntl", "subprocess"}
ALLOWED = {
    "pathlib": {"Path"},  # as a value
    "featcache.files.base": {"Files", "Ranges", "open_files", "store_place"},
    "featcache.files.threads": {"ProcessLock", "ReadThreads"},  # which wait for reads
    "featcache.files.block_cache": {"BlockCache", "block_key"},  # copies, beside the store
    "featcache.files.objects": {"Span"},  # as a value
    "featcache.files.places": {"room_for_store"},  # of a disk
    "featcache.files.sealed": {"seal", "unseal", "sha256_bytes"},  # of bytes
    "featcache.files.publish": {"is_temp"},  # of a name
}
ACCESSES = {"open", "exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "iterdir", "glob", "rglob", "walk"}
ACCESSES |= {"read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir", "rmdir", "rename", "touch"}
ACCESSES |= {"symlink_to", "hardlink_to", "chmod", "memmap", "fromfile", "tofile"}


def accesses(source: str) -> list[str]:
    """Where a module reaches a file system past the protocol: what it imports, and what it calls on anything else."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.split(".")[0] in REACHING]
        elif isinstance(node, ast.ImportFrom) and node.module:
            checked = node.module.split(".")[0] in REACHING or node.module.startswith(("pathlib", "featcache.files"))
            names = {one.name for one in node.names} - ALLOWED.get(node.module, set())
            found += [f"{node.module}.{name}" for name in names] if checked else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ACCESSES:
            found.append(node.func.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ACCESSES:
            is_protocol = re.search(r"\b(_?files|open_files\(\w+\)|StoreWriter)$", ast.unparse(node.func.value))
            found += [] if is_protocol else [ast.unparse(node.func)]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_store_reaches_files_through_the_protocol_alone(module):
    assert accesses(module.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from os.path import lexists",
        "from featcache.files import publish",
        "from featcache.files.locks import lock",
        "from featcache.files.sealed import read_bytes",
        "open(place)",
        "(root / name).read_bytes()",
        "Path(place).exists()",
        "root.glob('*')",
        "np.memmap(place)",
    ],
)
def test_the_search_sees(line):
    assert accesses(line)


def test_the_protocol_stays_small():
    assert sum(not name.startswith("_") for name in vars(Files)) <= 17
