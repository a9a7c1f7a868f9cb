"""The result of pre-training without labels, for all methods: its videos, the parts kept, and the last epochs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from featcache.summary import Summary
from featcache.training.seeds import last_epochs, result_dict
from featcache.training.skips import NOTHING_REPLACED, Replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedResult:
    """A pre-training run.

    Attributes:
        title: Heading of the table of seeds.
        columns: Headings of that table by the name of a value in the log.
        kept: Name of the part of the module that is kept.
        dropped: Name of the part that is dropped.
        left_out: Why videos were left out.
        folder: The run's folder.
        num_videos: Number of videos that were used for training.
        num_left_out: Number of videos that were left out.
        num_parameters: Number of parameters of the part that is kept.
        num_head_parameters: Number of parameters of the part that is dropped.
        seeds: The last line of each seed's log.
        replaced: How many videos could not be decoded, and how often another one took the place of one.
        next_command: A command that people often run next, if there is one.
    """

    title: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    kept: ClassVar[str] = "network"
    dropped: ClassVar[str] = "heads"
    left_out: ClassVar[str] = "videos that cannot be used"

    folder: str
    num_videos: int
    num_left_out: int
    num_parameters: int
    num_head_parameters: int
    seeds: Mapping[int, Mapping[str, float]]
    replaced: Replaced = NOTHING_REPLACED
    next_command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return result_dict(self)

    def facts(self) -> dict[str, object]:
        """Names and values of the summary."""
        facts: dict[str, object] = {
            "videos": self.num_videos,
            self.kept: f"{self.num_parameters:,} parameters",
            self.dropped: f"{self.num_head_parameters:,} parameters, dropped now",
            "run": self.folder,
        }
        if self.num_left_out:
            facts["left out"] = f"{self.num_left_out} {self.left_out}"
        return facts | self.replaced.facts()

    def summary(self) -> Summary:
        """The last epoch of each seed; without columns of values that were not measured."""
        columns = {
            name: heading for name, heading in self.columns.items() if any(name in line for line in self.seeds.values())
        }
        table = last_epochs(self.title, self.seeds, columns)
        return Summary(tables=(table,), facts=self.facts(), next_command=self.next_command)
