"""Takes one network from a training checkpoint that holds several, and accounts for every tensor in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from featcache.backbones.weights import load_strict


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """A complete account of the tensors of a file and of a network.

    Attributes:
        source: The file.
        taken: Names of the network that were loaded.
        dropped: Names in the file that are not part of the network: heads, queues, the other branch.
        kept: Names of the network that the file is known to lack; they keep their initial values.
    """

    source: str
    taken: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = [f"{len(self.taken)} tensors taken from {self.source}"]
        for names, what in ((self.dropped, "dropped"), (self.kept, "left as initialised")):
            if names:
                counts.append(f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})")
        return ", ".join(counts)


def take_branch(
    state: Mapping[str, Tensor], *, prefix: str, drop: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Split a checkpoint into one network and the dropped tensors.

    Args:
        state: Tensors by name.
        prefix: Prefix of the network's names, which is stripped. A file without any such name holds only the network.
        drop: Patterns (:mod:`fnmatch`) of names that are dropped if the prefix occurs.

    Returns:
        The network's tensors, and the dropped names. Any other name is kept, so that the strict load refuses it.
    """
    if not any(name.startswith(prefix) for name in state):
        return dict(state), ()
    dropped = tuple(name for name in state if any(fnmatchcase(name, pattern) for pattern in drop))
    taken = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name not in set(dropped)}
    return taken, dropped


def load_branch(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, dropped: Sequence[str], may_lack: Sequence[str] = ()
) -> KeyReport:
    """Load strictly and return an account of the tensors.

    Args:
        module: The network.
        state: Its tensors, from :func:`take_branch`.
        source: The file, for messages.
        dropped: Dropped names, from :func:`take_branch`.
        may_lack: As in :func:`featcache.backbones.weights.load_strict`.

    Raises:
        WeightsError: A name is missing or unexpected, or a shape differs.
    """
    kept = load_strict(module, state, source=source, may_lack=may_lack)
    return KeyReport(source=source, taken=tuple(state), dropped=tuple(dropped), kept=kept)
