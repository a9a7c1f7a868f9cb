"""Errors that a user can act on.

Every message says in one sentence what is wrong, where, and what to do next; the command line prints it without a
traceback.
"""

import difflib
from collections.abc import Iterable


class FeatcacheError(Exception):
    """Base of every error that the user can fix."""


class StoppedError(FeatcacheError):
    """One of several processes of a run stops because another one stopped, whose error says why."""


class UnknownNameError(FeatcacheError, KeyError):
    """A name that no registry entry, field, feature or label column has."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class ConfigError(FeatcacheError, ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


class ClipLengthError(ConfigError):
    """Clips with a number of frames that a video backbone does not support."""


class ManifestError(FeatcacheError, ValueError):
    """A source that cannot be listed: no videos, duplicate ids, unusable ids, missing columns."""


class PluginError(FeatcacheError):
    """A package whose backbone, data set, probe, decoder or task is broken, or has a name that is already taken."""


class VideoError(FeatcacheError):
    """One video that cannot be used; carries the ledger status."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        """Pickle with both arguments, so that the error survives the way out of another process."""
        return VideoError, (self.status, self.reason)


class NothingUsableError(FeatcacheError):
    """Every video of a source or a store failed; the command line ends with exit code 3."""


class WeightsError(FeatcacheError):
    """Weights that cannot be found or do not fit the network.

    Attributes:
        backbone: Name of the backbone whose weights are not there; empty if they are, or if it is not known.
    """

    def __init__(self, message: str, *, backbone: str = "") -> None:
        super().__init__(message)
        self.backbone = backbone


class StoreError(FeatcacheError):
    """A folder that is not a store, or a store written in a newer format."""


class RecipeMismatchError(StoreError, ValueError):
    """A store or array made with another recipe; names the field that differs."""


class CorruptStoreError(StoreError, OSError):
    """A store file that is missing, short, swapped or whose checksum does not match."""


class TooManyFilesError(StoreError, OSError):
    """A file of a store that this process may not open, because it has as many open as the system allows."""


class ExchangeError(FeatcacheError, ValueError):
    """Arrays that cannot be imported as they are, or a store that does not fit the format it is exported to."""


class RowError(FeatcacheError, IndexError):
    """Row numbers that a feature does not have, or values that are not row numbers."""


class DiskSpaceError(FeatcacheError, OSError):
    """A plan that would fill the disk, or a disk that filled up."""


class BucketError(FeatcacheError, OSError):
    """A bucket that is not there, refuses, or cannot be reached."""


class DeniedError(BucketError):
    """An object, or all of a bucket, that these credentials may not read or write."""


class UnsteadyError(BucketError):
    """A bucket that answers, but keeps failing at a request; it may do better later."""


class ReplacedError(BucketError):
    """An object that was replaced while it was read."""


class NonFiniteFeatureError(FeatcacheError, ArithmeticError):
    """Features that overflow the storage precision or are not finite."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> UnknownNameError:
    """Build the error for ``name`` that is not among ``known``, with the closest match.

    Args:
        kind: What was looked up, e.g. ``"backbone"``.
        name: What the user wrote.
        known: The accepted names.
        hint: A sentence to end with, e.g. the command that lists the names.
    """
    choices = sorted(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    guess = f"; did you mean {folded[close[0]]!r}?" if close else ""
    known_names = (
        f"known: {', '.join(choices[:20])}{', …' if len(choices) > 20 else ''}" if choices else "there is none"
    )
    listing = "" if close else f"; {known_names}"
    return UnknownNameError(f"unknown {kind} {name!r}{guess}{listing}{' ' + hint if hint else ''}")


def no_name(kind: str, where: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that was not given although there is not exactly one to choose from.

    Args:
        kind: What has to be named, e.g. ``"feature"``; also the name of the option.
        where: What holds the names, e.g. the store's path.
        known: The existing names.
    """
    choices = ", ".join(sorted(known))
    there_are = f"several {kind}s ({choices}); name one" if choices else "none yet"
    return UnknownNameError(f"no {kind} is named (--{kind}), and {where} has {there_are}")
