"""A model of a disk that loses data: possible contents of a folder after the machine has failed at some call.

It promises no more than POSIX does. The bytes of a file are durable once the file is synced, a name once its folder is
synced; until then each of them may exist or not, in any combination, whatever the order in which they were made. The
bytes of a file that was not synced may be lost, truncated, or zeros of the right length.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from featcache.seeding import rng_for
from featcache.testing.recorded_calls import Call

Tree = dict[str, bytes | None]
"""Name, relative to the folder, to content; ``None`` is a folder. Folders come before their contents."""

Choice = tuple[int, ...]
"""A number for each pending effect; 0 means lost."""


@dataclass(slots=True)
class _File:
    durable: bytes
    content: bytes
    kept: bytes  # number of durable bytes that remain below those written since
    changed: int = 0

    def versions(self) -> list[bytes]:
        """Possible contents after a crash, the oldest first, the newest last."""
        torn = self.content[: (len(self.kept) + len(self.content)) // 2]
        zeros = self.kept + bytes(len(self.content) - len(self.kept))
        return [*dict.fromkeys([self.durable, self.kept, torn, zeros]), self.content]


@dataclass(slots=True)
class _Change:
    """Names of a folder that appear and disappear atomically: name to node, or ``None`` for one that disappears."""

    made: int
    names: dict[str, int | None]


@dataclass(slots=True)
class _Folder:
    durable: dict[str, int]
    pending: list[_Change] = field(default_factory=list)

    def names(self, kept: list[bool] | None = None) -> dict[str, int]:
        """Name to node, with all pending changes or the kept ones."""
        names = dict(self.durable)
        for number, change in enumerate(self.pending):
            if kept is None or kept[number]:
                for name, node in change.names.items():
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
        return names


class Disk:
    """Files and folders below a folder, and which parts of them are durable."""

    def __init__(self, tree: Mapping[str, bytes | None]) -> None:
        """Make a disk that holds a tree, all of it durable."""
        self._nodes: list[_File | _Folder] = [_Folder({})]
        self._handles: dict[int, tuple[int, int]] = {}  # node and position
        self._clock = 0
        for name, content in tree.items():
            folder, last = self._place(name)
            node = _Folder({}) if content is None else _File(content, content, content)
            folder.durable[last] = self._add(node)

    def copy(self) -> "Disk":
        """An independent disk in the same state."""
        return copy.deepcopy(self)

    def apply(self, call: Call) -> None:
        """Repeat the effect of a recorded call."""
        self._clock += 1
        match call.kind:
            case "open" | "create":
                self._open(call)
            case "write":
                node, position = self._handles[call.handle]
                file = self._nodes[node]
                assert isinstance(file, _File)
                assert position == len(file.content), "only writing at the end is modelled"
                file.content += call.data
                file.changed = self._clock
                self._handles[call.handle] = node, len(file.content)
            case "fsync":
                self._sync(self._nodes[self._handles[call.handle][0]])
            case "link":
                self._change(call.names[1], self._find(call.names[0]))
            case "rename":
                self._rename(*call.names)
            case "unlink" | "rmdir":
                self._change(call.names[0], None)
            case "mkdir":
                self._change(call.names[0], self._add(_Folder({})))

    def pending(self) -> list[int]:
        """For each effect that may be lost, the oldest first, the number of its possible outcomes."""
        return [num_ways for _, _, _, num_ways in self._effects()]

    def tree(self, choice: Choice | None = None) -> Tree:
        """The contents for running processes, or after a crash with the chosen outcome of each pending effect."""
        chosen = None if choice is None else dict(zip([effect[1:3] for effect in self._effects()], choice, strict=True))
        tree: Tree = {}
        self._walk(0, "", chosen, tree)
        return tree

    def _walk(self, node: int, prefix: str, chosen: dict[tuple[int, int], int] | None, tree: Tree) -> None:
        folder = self._nodes[node]
        assert isinstance(folder, _Folder)
        kept = None if chosen is None else [bool(chosen[node, number]) for number in range(len(folder.pending))]
        for name, child in sorted(folder.names(kept).items()):
            match self._nodes[child]:
                case _Folder():
                    tree[prefix + name] = None
                    self._walk(child, f"{prefix}{name}/", chosen, tree)
                case _File() as file:
                    version = -1 if chosen is None else chosen.get((child, 0), -1)
                    tree[prefix + name] = file.versions()[version]

    def _effects(self) -> list[tuple[int, int, int, int]]:
        """Time, node, number within the node and number of outcomes of each pending effect, in order of time."""
        effects = []
        for number, node in enumerate(self._nodes):
            if isinstance(node, _Folder):
                effects += [(change.made, number, index, 2) for index, change in enumerate(node.pending)]
            elif node.content != node.durable:
                effects.append((node.changed, number, 0, len(node.versions())))
        return sorted(effects)

    def _add(self, node: "_File | _Folder") -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _place(self, name: str) -> tuple[_Folder, str]:
        parent, _, last = name.rpartition("/")
        folder = self._nodes[self._find(parent)]
        assert isinstance(folder, _Folder)
        return folder, last

    def _find(self, name: str) -> int:
        if not name:
            return 0
        folder, last = self._place(name)
        return folder.names()[last]

    def _change(self, name: str, node: int | None) -> None:
        folder, last = self._place(name)
        folder.pending.append(_Change(self._clock, {last: node}))

    def _rename(self, source: str, target: str) -> None:
        node = self._find(source)
        (folder, last), (other, new) = self._place(source), self._place(target)
        if folder is other:
            folder.pending.append(_Change(self._clock, {last: None, new: node}))
        else:  # a crash may leave both names, or neither
            other.pending.append(_Change(self._clock, {new: node}))
            folder.pending.append(_Change(self._clock, {last: None}))

    def _open(self, call: Call) -> None:
        name = call.names[0]
        if name and name.rpartition("/")[2] not in self._place(name)[0].names():
            self._change(name, self._add(_File(b"", b"", b"")))
        node = self._find(name)
        file = self._nodes[node]
        if call.truncates and isinstance(file, _File):
            file.content = file.kept = b""
            file.changed = self._clock
        self._handles[call.handle] = node, 0

    @staticmethod
    def _sync(node: "_File | _Folder") -> None:
        if isinstance(node, _File):
            node.durable = node.kept = node.content
        else:
            node.durable, node.pending = node.names(), []


def crashes(disk: Disk, *, seed: int, newest: int = 6, samples: int = 8) -> Iterator[Choice]:
    """Possible outcomes of the pending effects.

    These are all combinations if at most ``newest`` effects are pending. Otherwise they are all combinations of the
    newest with the older ones kept, then with the older ones lost, and ``samples`` random ones of the rest.

    Args:
        disk: State at the time of the failure.
        seed: Seed of the draws.
        newest: Number of effects that are taken in every combination.
        samples: Number of random combinations.
    """
    ways = disk.pending()
    old, new = ways[: max(0, len(ways) - newest)], ways[max(0, len(ways) - newest) :]
    for choice in product(*map(range, new)):
        yield tuple(count - 1 for count in old) + choice
    if old:
        yield (0,) * len(ways)
        rng = rng_for(seed, "crash", len(ways))
        for _ in range(samples):
            yield tuple(int(rng.integers(count)) for count in ways)


def read_tree(folder: Path) -> Tree:
    """Read the contents of a folder."""
    found = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in found}


def write_tree(folder: Path, tree: Mapping[str, bytes | None]) -> None:
    """Make a folder that holds a tree."""
    folder.mkdir()
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
