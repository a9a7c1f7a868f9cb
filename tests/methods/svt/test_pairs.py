"""Pairs of views, listed by hand."""

import pytest

from featcache.methods.svt.pairs import student_views, teacher_views, view_pairs

# One local view, number 2, and two, numbers 2 and 3; (student, teacher).
ROUTES = {
    "l2g": {(2, 0), (3, 0), (2, 1), (3, 1)},
    "g2g": {(1, 0), (0, 1)},
    "l2l": {(3, 2), (2, 3)},
    "g2l": {(0, 2), (1, 2), (0, 3), (1, 3)},
}


@pytest.mark.parametrize("route", ROUTES)
def test_each_route(route):
    assert set(view_pairs([route], num_locals=2)) == ROUTES[route]


def test_routes_add_up():
    pairs = view_pairs(["l2g", "g2g"], num_locals=8)
    assert len(pairs) == len(set(pairs)) == 18
    assert teacher_views(pairs) == (0, 1)
    assert student_views(pairs) == tuple(range(10))
    assert len(view_pairs(list(ROUTES), num_locals=8)) == 10 * 9
    assert view_pairs(["l2l"], num_locals=1) == ()


@pytest.mark.parametrize("teacher", [0, 1])
def test_one_teacher_sees_one_view(teacher):
    pairs = view_pairs(["l2g", "g2g"], num_locals=8, teacher_view=teacher)
    assert teacher_views(pairs) == (teacher,)
    assert sorted(student_views(pairs)) == sorted({*range(10)} - {teacher})
