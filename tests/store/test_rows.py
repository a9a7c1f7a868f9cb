"""The row table survives Parquet to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.store.rows import COLUMNS, RowTable, rows_from_bytes, rows_to_bytes


def make_table(num_rows, num_frames, *, seed=0):
    rng = np.random.default_rng(seed)
    ints = {name: rng.integers(0, 1000, num_rows).astype(np.int32) for name in COLUMNS}
    return RowTable(
        **{name: ints[name] for name in ("video", "row", "clip", "y0", "x0", "y1", "x1")},
        frames=rng.integers(0, 1000, (num_rows, num_frames)).astype(np.int32),
        pts_seconds=rng.random((num_rows, num_frames)),
        t0=rng.random(num_rows),
        t1=rng.random(num_rows),
        flip=rng.random(num_rows) < 0.5,
    )


@given(num_rows=st.integers(0, 20), num_frames=st.integers(1, 9))
def test_round_trip(num_rows, num_frames):
    table = make_table(num_rows, num_frames)
    data = rows_to_bytes(table)
    assert data == rows_to_bytes(table)
    read = rows_from_bytes(data, where="table")
    for name in COLUMNS:
        column = getattr(table, name)
        assert getattr(read, name).dtype == column.dtype
        assert getattr(read, name).shape == column.shape
        assert getattr(read, name).tobytes() == column.tobytes()


def test_select_and_concatenate_undo_each_other():
    table = make_table(9, 4)
    joined = RowTable.concatenate(
        [table.select(slice(0, 4)), table.select(np.arange(4, 9)), RowTable.empty(num_frames=1)]
    )
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(table, name))
    assert len(RowTable.concatenate([RowTable.empty(num_frames=3)])) == 0


def test_columns_of_other_lengths_or_dtypes_are_refused():
    table = make_table(3, 2)
    columns = {name: getattr(table, name) for name in COLUMNS}
    with pytest.raises(AssertionError, match="t0 has 2 rows"):
        RowTable(**{**columns, "t0": table.t0[:2]})
    with pytest.raises(AssertionError, match="row is int64"):
        RowTable(**{**columns, "row": table.row.astype(np.int64)})
    with pytest.raises(AssertionError, match="differ in shape"):
        RowTable(**{**columns, "frames": table.frames[:, :1]})


def test_repr_shows_shapes():
    assert repr(make_table(3, 2)) == "RowTable(num_rows=3, num_frames=2)"
