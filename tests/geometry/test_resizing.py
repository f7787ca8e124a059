"""Resized and padded lengths against hand numbers and their defining properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmaskrcnn.geometry.resizing import padded_length, resize_shape


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((480, 640), (800, 1067)),  # 640 * 800 / 480 = 1066.67
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),  # the long side stops it: 400 * 1333 / 1000 = 533.2
        ((800, 1333), (800, 1333)),
        ((1, 4000), (1, 1333)),
    ],
)
def test_hand_numbers(shape, expected):
    assert resize_shape(*shape, min_size=800, max_size=1333) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000), st.integers(0, 1000))
def test_one_limit_is_met_and_neither_is_passed(height, width, min_size, more):
    new = resize_shape(height, width, min_size, min_size + more)
    assert max(new) <= min_size + more and min(new) <= min_size
    assert max(new) == min_size + more or min(new) == min_size


@pytest.mark.parametrize("arguments", [(0, 5), (5, -1), (5, 5, 0), (5, 5, 10, 9)])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="must be at least"):
        resize_shape(*arguments)


@given(st.integers(1, 10000), st.integers(1, 128))
def test_padded_length_is_the_least_multiple(length, divisor):
    padded = padded_length(length, divisor)
    assert padded % divisor == 0 and 0 <= padded - length < divisor
