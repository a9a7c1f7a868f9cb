"""Weights files of a run: the network at the end, and at chosen epochs (``training.keep_epochs``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from featcache.backbones.weights import write_weights
from featcache.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """How a method writes the network that it trains.

    Attributes:
        child: Name of the network within the trained module, e.g. ``teacher.backbone``.
        facts: JSON-ready metadata of the file, e.g. its backbone.
    """

    child: str
    facts: Mapping[str, Any]

    def write(self, path: Path, module: nn.Module, *, beside: Mapping[str, Any]) -> None:
        """Write the network of a module as a weights file, which ``--weights`` reads.

        Args:
            path: The file.
            module: The module to use; its mode is not changed.
            beside: Further metadata.
        """
        write_weights(path, module.get_submodule(self.child), facts={**self.facts, **beside})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEpochs:
    """Writes the network of one seed at chosen epochs.

    A file is written right after a checkpoint of the same state. A run that is killed in between writes it when it is
    resumed, from that checkpoint, so a file that is written twice has the same bytes both times.

    Attributes:
        folder: Folder of the seed.
        seed: The seed.
        epochs: The epochs, counted from 1.
        network: How the network is written.
    """

    folder: Path
    seed: int
    epochs: tuple[int, ...]
    network: NetworkFile

    def path(self, epoch: int) -> Path:
        """The file of an epoch."""
        return self.folder / f"epoch-{epoch:03d}.safetensors"

    def write(self, epoch: int, module: nn.Module) -> None:
        """Write the file of an epoch.

        Args:
            epoch: One of :attr:`epochs`.
            module: The module to use after so many epochs.
        """
        self.network.write(self.path(epoch), module, beside={"seed": self.seed, "epoch": epoch})

    def check(self, epochs_done: float) -> None:
        """Check that the epochs that a resumed run has passed were kept; the one that it stands at can still be.

        Args:
            epochs_done: Fractional number of epochs that the run has done.

        Raises:
            ConfigError: An epoch has passed and its file is not there.
        """
        gone = [epoch for epoch in self.epochs if epoch < epochs_done and not self.path(epoch).exists()]
        if gone:
            raise ConfigError(
                f"{self.folder} has trained {epochs_done:.4g} epochs and kept no weights of epoch {gone[0]}, which "
                f"training.keep_epochs names; take {gone[0]} out, or train anew in another --out"
            )
