"""What is stored is finite, and int8 loses at most half a step of its channel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featcache.errors import NonFiniteFeatureError
from featcache.store.precision import all_finite, dequantise, quantise, to_storage


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float16", np.float16), ("float32", np.float32), ("int8", np.float32)]
)
def test_dtype_in_which_rows_wait(precision, dtype):
    values = np.linspace(-3, 3, 7, dtype=np.float32)
    stored = to_storage(values, precision, where="f of v")
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, values.astype(dtype))


def test_overflow_is_told_apart_from_nan():
    with pytest.raises(NonFiniteFeatureError, match=r"f of v reaches 70000, beyond float16's 65504; store it with"):
        to_storage(np.array([1.0, -70_000.0], np.float32), "float16", where="f of v")
    with pytest.raises(NonFiniteFeatureError, match="f of v has 2 NaN or infinite values"):
        to_storage(np.array([np.nan, np.inf, 1.0], np.float32), "float16", where="f of v")
    assert to_storage(np.array([70_000.0], np.float32), "float32", where="f")[0] == 70_000


def test_the_largest_float16_is_stored():
    assert to_storage(np.array([65_504.0, 65_519.0], np.float32), "float16", where="f").tolist() == [65_504, 65_504]


@given(hnp.arrays(st.sampled_from([np.float16, np.float32]), st.integers(0, 50)))
def test_all_finite_is_what_numpy_says(values):
    assert all_finite(values) == bool(np.isfinite(values).all())


def test_every_float16_is_judged_right():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert [all_finite(every[i : i + 1]) for i in range(2**16)] == np.isfinite(every).tolist()


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    st.data(),
)
def test_int8_error_is_at_most_half_a_step(values, data):
    present = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    quantised, scale = quantise(values, present)
    assert quantised.dtype == np.int8
    assert scale.shape == values.shape[-1:]
    assert (quantised[~present] == 0).all()
    assert quantised.min(initial=0) >= -127
    error = np.abs(dequantise(quantised, scale).astype(np.float64) - values)[present]
    assert (error <= 0.5001 * scale.astype(np.float64) + np.finfo(np.float32).tiny).all()


def test_golden_quantisation():
    values = np.array([[1.0, 0.0, -2.0], [-0.5, 0.0, 1.0], [99.0, 9.0, 9.0]], np.float32)
    quantised, scale = quantise(values, np.array([True, True, False]))
    assert quantised.tolist() == [[127, 0, -127], [-64, 0, 64], [0, 0, 0]]
    np.testing.assert_allclose(scale, [1 / 127, 1, 2 / 127], rtol=1e-6)


def test_nan_is_not_quantised():
    values = np.array([[1.0], [np.nan]], np.float32)
    with pytest.raises(NonFiniteFeatureError, match="row 1"):
        quantise(values, np.array([True, True]))
    assert quantise(values, np.array([True, False]))[0].tolist() == [[127], [0]]
