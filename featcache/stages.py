"""Progress of long commands: one callback for all of them."""

from typing import Protocol


class OnStage(Protocol):
    """A callback that is called repeatedly while a command runs, from any of its threads."""

    def __call__(self, stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
        """Take the latest figures.

        Args:
            stage: Name of the part of the work, e.g. ``scan`` or ``seed 0``.
            done: Amount of work done so far, in any unit.
            total: Total amount of work, in the same unit.
            note: Further figures for people, e.g. the loss.
            num_failed: Number of items that failed so far.
        """


def ignore(stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
    """Report nothing."""


def renamed(on_stage: OnStage, name: str) -> OnStage:
    """The same callback for one step of several: ``seed 0`` becomes ``<name> 0``, other stages stay."""

    def pass_on(stage: str, done: float, total: float, note: str = "", num_failed: int = 0, /) -> None:
        on_stage(stage.replace("seed", name, 1), done, total, note, num_failed)

    return pass_on
