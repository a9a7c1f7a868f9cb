"""Pairs of views, of which one predicts the other (SVT §3.3, Table 4), without torch."""

from collections.abc import Collection
from typing import Literal, NamedTuple

Route = Literal["l2g", "g2g", "l2l", "g2l"]
NUM_GLOBALS = 2


class Pair(NamedTuple):
    """A student's view and the teacher's view that it predicts; global views have numbers 0 and 1, local ones follow.

    Attributes:
        student: Number of the student's view.
        teacher: Number of the teacher's view.
    """

    student: int
    teacher: int


def view_pairs(routes: Collection[Route], *, num_locals: int, teacher_view: int | None = None) -> tuple[Pair, ...]:
    """All pairs of different views whose route is among ``routes``; by teacher, then student.

    Two globals and eight locals with ``l2g`` and ``g2g`` make 18 pairs, as released.

    Args:
        routes: Routes, student first: ``l2g`` is a student's local view and a teacher's global one.
        num_locals: Number of local views.
        teacher_view: The only view that the teacher sees; ``None``: all.
    """
    views = range(NUM_GLOBALS + num_locals)

    def is_wanted(pair: Pair) -> bool:
        student, teacher = ("g" if number < NUM_GLOBALS else "l" for number in pair)
        return pair.student != pair.teacher and f"{student}2{teacher}" in routes

    teachers = views if teacher_view is None else [teacher_view]
    pairs = (Pair(student, teacher) for teacher in teachers for student in views)
    return tuple(pair for pair in pairs if is_wanted(pair))


def teacher_views(pairs: Collection[Pair]) -> tuple[int, ...]:
    """The views that the teacher has to see, in ascending order."""
    return tuple(sorted({pair.teacher for pair in pairs}))


def student_views(pairs: Collection[Pair]) -> tuple[int, ...]:
    """The views that the student has to see, in ascending order."""
    return tuple(sorted({pair.student for pair in pairs}))


def positions_of(pairs: Collection[Pair]) -> tuple[Pair, ...]:
    """The same pairs as positions in :func:`student_views` and :func:`teacher_views` instead of view numbers."""
    students, teachers = student_views(pairs), teacher_views(pairs)
    return tuple(Pair(students.index(pair.student), teachers.index(pair.teacher)) for pair in pairs)
