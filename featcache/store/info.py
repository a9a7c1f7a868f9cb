"""Result of ``featcache info``."""

from dataclasses import dataclass
from typing import Any

from featcache.summary import Summary, SummaryTable
from featcache.units import readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """The contents of a store.

    Attributes:
        facts: Facts returned by :meth:`featcache.store.reader.Store.info`.
    """

    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.facts

    def summary(self) -> Summary:
        """The summary to print."""
        rows = tuple(
            (
                name,
                "x".join(map(str, feature["record_shape"])),
                feature["dtype"],
                feature["num_rows"],
                *(feature["coverage"][kind] for kind in ("ok", "failed", "pending")),
                readable_bytes(feature["num_bytes"]),
            )
            for name, feature in self.facts["features"].items()
        )
        columns = ("name", "row", "dtype", "rows", "videos ok", "failed", "pending", "size")
        sampling = tuple(self.facts["sampling"].items())
        return Summary(
            tables=(
                SummaryTable(title="features", columns=columns, rows=rows),
                SummaryTable(title="sampling", columns=("setting", "value"), rows=sampling),
            ),
            facts={key: value for key, value in self.facts.items() if not isinstance(value, dict | list)},
        )
