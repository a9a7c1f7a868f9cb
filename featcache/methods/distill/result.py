"""What a distillation gives: for each student what a fine-tuning would give."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.methods.distill.settings import Mode
from featcache.methods.finetune.result import FinetuneResult
from featcache.summary import Summary, SummaryTable, counted, percent
from featcache.units import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillResult:
    """Students and their test results.

    Attributes:
        folder: The run's folder.
        teachers: The teachers as the settings name them.
        mode: How their divergences were added.
        temperature: What logits were divided by.
        kd_weight: Weight of the teachers' part of the loss.
        permute_teachers: Whether each video was given what teachers say of another.
        students: The result of each student, by the name of its folder in the run, which holds what the folder of a
            fine-tuning holds.
        seconds: Wall time.
    """

    folder: str
    teachers: tuple[str, ...]
    mode: Mode
    temperature: float
    kd_weight: float
    permute_teachers: bool
    students: Mapping[str, FinetuneResult]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a run of one student has its ``splits``, as a fine-tuning has."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        students = {name: each.to_dict() for name, each in self.students.items()}
        document = {**own, "teachers": list(self.teachers), "students": students}
        if len(students) == 1:
            (document["splits"],) = (each["splits"] for each in students.values())
        return document

    def summary(self) -> Summary:
        """Accuracies by student and split."""
        first = next(iter(self.students.values()))
        metrics = next(iter(first.splits.values())).metrics
        rows = tuple(
            (
                name,
                split,
                *(percent(each.value, each.low, each.high) for each in part.metrics.values()),
                f"{part.num_videos}/{part.coverage.total}",
            )
            for name, student in self.students.items()
            for split, part in student.splits.items()
        )
        title = f"{first.label!r}: {first.num_classes} classes, {first.num_views} views, {len(first.seeds)} seeds"
        said = "what they say of other videos" if self.permute_teachers else f"mode {self.mode}"
        facts = {
            "teachers": f"{', '.join(self.teachers)} ({said}, weight {self.kd_weight:g}, T {self.temperature:g})"
            if self.kd_weight
            else "none, labels alone",
            "trained": f"on {counted(first.num_train, 'video')}",
            "took": duration(self.seconds),
            "run": self.folder,
            **first.replaced.facts(),
        }
        if first.num_left_out:
            facts["left out"] = f"{counted(first.num_left_out, 'video')} that cannot be used"
        table = SummaryTable(title=title, columns=("student", "split", *metrics, "scored"), rows=rows, num_text=2)
        return Summary(tables=(table,), facts=facts, next_command=first.next_command)
