"""Errors a user can act on.

Every message says what, where and what to do next in one sentence; the command line prints it without a traceback.
"""

import difflib
from collections.abc import Iterable


class FeatcacheError(Exception):
    """Base of every error that is the user's to mend."""


class StoppedError(FeatcacheError):
    """One of several processes of a run stops because another did, whose error says why."""


class UnknownNameError(FeatcacheError, KeyError):
    """A name that no registry entry, field, feature or label column has."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class ConfigError(FeatcacheError, ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


class ClipLengthError(ConfigError):
    """Clips of so many frames that a video backbone cannot take them."""


class ManifestError(FeatcacheError, ValueError):
    """A source that cannot be listed: no videos, duplicate ids, unusable ids, missing columns."""


class PluginError(FeatcacheError):
    """A package that offers a backbone, data set, probe, decoder or task, and is broken or not alone in offering it."""


class VideoError(FeatcacheError):
    """One video that cannot be used; carries the ledger status."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        """Come out of another process as it went in."""
        return VideoError, (self.status, self.reason)


class NothingUsableError(FeatcacheError):
    """Every video of a source or a store failed; the command line ends with exit code 3."""


class WeightsError(FeatcacheError):
    """Weights that are not at hand or do not fit the network."""


class StoreError(FeatcacheError):
    """A folder that is no store, or one written by a newer format."""


class RecipeMismatchError(StoreError, ValueError):
    """A store or array made with another recipe; names the field that differs."""


class CorruptStoreError(StoreError, OSError):
    """A store file that is missing, short, swapped or whose checksum does not match."""


class ExchangeError(FeatcacheError, ValueError):
    """Arrays that cannot be imported as they are, or a store that does not fit the format it is exported to."""


class RowError(FeatcacheError, IndexError):
    """Row numbers that a feature does not have, or that are no row numbers."""


class DiskSpaceError(FeatcacheError, OSError):
    """A plan that would fill the disk, or a disk that filled up."""


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
    """Build the error for a name that was left out where there is not just one.

    Args:
        kind: What is to be named, e.g. ``"feature"``; the option of that name says it.
        where: What holds them, e.g. the store's path.
        known: The names there are.
    """
    choices = ", ".join(sorted(known))
    there_are = f"several {kind}s ({choices}); name one" if choices else "none yet"
    return UnknownNameError(f"no {kind} is named (--{kind}), and {where} has {there_are}")
