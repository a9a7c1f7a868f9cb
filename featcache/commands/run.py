"""Carries out any command, from its settings alone."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from featcache.commands.registry import command_of, function_of
from featcache.config import Settings
from featcache.imports import collecting_nothing
from featcache.stages import OnStage, ignore
from featcache.summary import Result

Watching = Callable[[], AbstractContextManager[OnStage]]
"""Opens a context with the callback for one command, e.g. one that draws its progress."""


@contextmanager
def unwatched() -> Iterator[OnStage]:
    """Report no progress."""
    yield ignore


def carry_out(settings: Settings, *, watching: Watching = unwatched) -> Iterator[str | Result]:
    """Carry out a command lazily, result by result.

    Args:
        settings: Settings of any command.
        watching: Called once for every command that is carried out.

    Yields:
        The result. Pipelines and sweeps yield the heading of each step as text before the step runs, then its result,
        and a sweep its table at the end.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; or the problem of a step that the next ones cannot do
            without, after its result was yielded.
    """
    with collecting_nothing():
        function = function_of(command_of(settings))
    if inspect.isgeneratorfunction(function):
        yield from function(settings, watching=watching)
        return
    with watching() as on_stage:
        result: Result = function(settings, on_stage=on_stage)
    yield result
    problem = result.summary().problem
    if problem is not None:
        raise problem
