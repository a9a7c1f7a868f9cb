"""Result of the commands that draw a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture that was written.

    Attributes:
        facts: JSON-ready facts: the picture as ``out``, its ``rows``, and the ``frames`` shown.
    """

    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(self.facts)

    def summary(self) -> Summary:
        """The summary to print."""
        return Summary(facts=self.facts)
