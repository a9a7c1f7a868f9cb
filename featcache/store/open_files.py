"""The data files that a reader holds open: a bounded number, of which those go first that were not used for longest."""

import resource
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from featcache.errors import TooManyFilesError

_MAX_DEFAULT_FILES = 1000

T = TypeVar("T")


def default_max_open() -> int:
    """Half of the file descriptors that this process may have (an open file takes one), at most 1000."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_DEFAULT_FILES if limit == resource.RLIM_INFINITY else max(1, min(_MAX_DEFAULT_FILES, limit // 2))


class OpenFiles(Generic[T]):
    """Files by number, opened on demand. Not thread-safe.

    Attributes:
        held: The open files, in no order.
        max_open: Largest number of them.
    """

    def __init__(self, open_one: Callable[[int], T], *, num_files: int, max_open: int) -> None:
        self._open_one = open_one
        self._last_used = np.zeros(num_files, np.int64)
        self._clock = 0
        self.held: dict[int, T] = {}
        self.max_open = max_open

    def use(self, numbers: npt.NDArray[np.int32]) -> None:
        """Note that open files were used; a number may occur more than once."""
        self._clock += 1
        self._last_used[numbers] = self._clock

    def need(self, numbers: npt.NDArray[np.int32]) -> None:
        """Open different files, at most ``max_open``; others are closed where there is no room.

        Raises:
            CorruptStoreError: A file is missing, short, damaged or another one.
            TooManyFilesError: The system allows fewer. See :meth:`fewer`.
        """
        assert len(numbers) <= self.max_open, f"{len(numbers)} files, and {self.max_open} may be open"
        self.use(numbers)
        for number in numbers.tolist():
            if number in self.held:
                continue
            if len(self.held) >= self.max_open:
                del self.held[min(self.held, key=lambda held: self._last_used[held])]
            self.held[number] = self._open_one(number)

    def fewer(self, error: TooManyFilesError) -> None:
        """Close all files, and open at most half as many from now on, because the system did not allow more.

        Raises:
            TooManyFilesError: Not even one could be opened.
        """
        if self.max_open == 1:
            raise error
        self.max_open = max(1, min(self.max_open - 1, len(self.held) // 2))
        self.held.clear()
