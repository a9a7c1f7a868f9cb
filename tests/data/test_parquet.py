"""Columns are those that pyarrow makes, to the bit of a file, without its way through pandas."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.parquet import from_numbers, from_texts, numbers
from featcache.store.rows import table_bytes

pa.array([1])  # imports pandas, which takes longer than an example may


def same(mine, theirs):
    mine.validate(full=True)
    assert mine.type == theirs.type
    return table_bytes(pa.table({"a": mine})) == table_bytes(pa.table({"a": theirs}))


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"))))
def test_texts(values):
    assert same(from_texts(values), pa.array(values, pa.string()))


@given(st.lists(st.integers(-(2**31), 2**31 - 1)), st.sampled_from(["int32", "int64", "float64", "bool"]))
def test_numbers(values, dtype):
    array = np.array(values).astype(dtype)
    assert same(from_numbers(array), pa.array(array))
    if dtype != "bool":
        whole = pa.chunked_array([array[:1], array[1:]], pa.array(array).type)
        np.testing.assert_array_equal(numbers(whole), array)
        assert numbers(whole).dtype == array.dtype
        np.testing.assert_array_equal(numbers(pa.array(array)), array)


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_a_column_without_rows(dtype):
    assert same(from_numbers(np.zeros(0, dtype)), pa.array(np.zeros(0, dtype)))
    assert numbers(pa.chunked_array([], pa.from_numpy_dtype(np.dtype(dtype)))).dtype == np.dtype(dtype)
