"""Result of ``featcache diff``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.errors import FeatcacheError
from featcache.summary import Summary, SummaryTable

MAX_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherValue:
    """A setting that has two values.

    Attributes:
        name: Name of the field.
        left: Value in the first store.
        right: Value in the second store.
    """

    name: str
    left: Any
    right: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDifference:
    """In what a feature that both stores have differs.

    Attributes:
        name: Name of the feature.
        recipe: Fields of its recipe and record.
        outcomes: Videos of both stores that have rows in one alone, or fail for another reason; the names are ids.
        row_counts: Videos with other numbers of rows; the names are ids.
        rows_compared: Number of rows that were compared.
        rows_equal: Number of those that are equal to the bit.
        largest_difference: Largest absolute difference of a value.
        least_cosine: Smallest cosine of a row with its counterpart; 1 if no row was compared.
        mean_cosine: Mean of these cosines; 1 if no row was compared.
        other_places: Number of rows with other frames, times or boxes.
        videos_differing: Videos with rows that are not equal.
    """

    name: str
    recipe: tuple[OtherValue, ...] = ()
    outcomes: tuple[OtherValue, ...] = ()
    row_counts: tuple[OtherValue, ...] = ()
    rows_compared: int = 0
    rows_equal: int = 0
    largest_difference: float = 0.0
    least_cosine: float = 1.0
    mean_cosine: float = 1.0
    other_places: int = 0
    videos_differing: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether the feature is the same in both stores."""
        are_same = self.rows_equal == self.rows_compared and not self.other_places
        return are_same and not (self.recipe or self.outcomes or self.row_counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """In what two stores differ. File formats, generations and the order of rows do not matter.

    Attributes:
        stores: The two stores.
        file_formats: Their file formats.
        sampling: Fields of the sampling recipe.
        features_only: Features of the first store alone, and of the second alone.
        videos_only: Videos of the first store alone, and of the second alone.
        videos_common: Number of videos of both.
        contents: Videos whose file is another one; their rows are not compared.
        splits: Videos with another split; the names are ids.
        labels: Label column to the videos with another label; the names are ids.
        features: Features that both stores have.
    """

    stores: tuple[str, str]
    file_formats: tuple[str, str]
    sampling: tuple[OtherValue, ...]
    features_only: tuple[tuple[str, ...], tuple[str, ...]]
    videos_only: tuple[tuple[str, ...], tuple[str, ...]]
    videos_common: int
    contents: tuple[str, ...]
    splits: tuple[OtherValue, ...]
    labels: Mapping[str, tuple[OtherValue, ...]]
    features: tuple[FeatureDifference, ...]

    @property
    def kinds(self) -> list[str]:
        """In what they differ, in a few words each; empty if they are equal."""
        found = {
            "sampling": self.sampling,
            "features": any(self.features_only),
            "videos": any(self.videos_only),
            "contents of videos": self.contents,
            "splits": self.splits,
            "labels": self.labels,
            **{f"feature {one.name!r}": not one.is_equal for one in self.features},
        }
        return [name for name, is_other in found.items() if is_other]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"is_equal": not self.kinds, **asdict(self)}

    def summary(self) -> Summary:
        """What to show of it."""
        kinds = self.kinds
        problem = FeatcacheError(f"{self.stores[0]} and {self.stores[1]} differ in: {', '.join(kinds)}")
        outcomes = [(one.name, *_cells(each)) for one in self.features for each in one.outcomes]
        tables = (
            self._recipes(),
            self._videos(),
            SummaryTable(
                title=f"{len(outcomes)} videos with another outcome",
                columns=("feature", "video", "first store", "second store"),
                rows=tuple(outcomes[:MAX_SHOWN]),
                num_text=4,
            ),
            self._rows(),
        )
        return Summary(
            tables=tuple(table for table in tables if table.rows),
            facts={
                "stores": f"{self.stores[0]} ({self.file_formats[0]}), {self.stores[1]} ({self.file_formats[1]})",
                "videos": f"{self.videos_common} in both",
            },
            lines=() if kinds else ("the stores hold the same",),
            problem=problem if kinds else None,
        )

    def _recipes(self) -> SummaryTable:
        rows = [("sampling", *_cells(one)) for one in self.sampling]
        rows += [(one.name, *_cells(each)) for one in self.features for each in one.recipe]
        rows += [(name, "feature", "there", "not there") for name in self.features_only[0]]
        rows += [(name, "feature", "not there", "there") for name in self.features_only[1]]
        return SummaryTable(
            title="recipes", columns=("of", "setting", "first store", "second store"), rows=tuple(rows), num_text=4
        )

    def _videos(self) -> SummaryTable:
        found = {
            "only in the first store": self.videos_only[0],
            "only in the second store": self.videos_only[1],
            "other contents": self.contents,
            "other split": [f"{one.name} ({one.left!r}, {one.right!r})" for one in self.splits],
            **{
                f"other {name if name == 'label' else f'label.{name}'}": [
                    f"{one.name} ({one.left!r}, {one.right!r})" for one in others
                ]
                for name, others in self.labels.items()
            },
        }
        rows = tuple((what, videos[0], len(videos)) for what, videos in found.items() if videos)
        return SummaryTable(title="videos", columns=("what", "e.g.", "videos"), rows=rows, num_text=2)

    def _rows(self) -> SummaryTable:
        rows = tuple(
            (
                one.name,
                one.rows_compared,
                one.rows_equal,
                f"{one.largest_difference:.3g}",
                f"{one.least_cosine:.6f}",
                f"{one.mean_cosine:.6f}",
                one.other_places,
                len(one.row_counts),
                one.videos_differing[0] if one.videos_differing else "",
            )
            for one in self.features
        )
        columns = (
            "rows", "compared", "equal to the bit", "largest difference", "least cosine", "mean cosine", "other places",
            "other numbers", "e.g.",
        )  # fmt: skip
        return SummaryTable(title="features", columns=columns, rows=rows)


def _cells(one: OtherValue) -> tuple[str, str, str]:
    return one.name, str(one.left), str(one.right)
