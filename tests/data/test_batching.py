"""Batches: every index once, like shapes together, the same for the same generator."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kmaskrcnn.data.batching import plan_batches


def shapes_of(count, seed=0):
    return np.random.default_rng(seed).integers(1, 6, (count, 2)) * 64


@given(st.integers(0, 300), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_every_index_stands_in_one_batch(count, batch_size, shuffle, seed):
    generator = np.random.default_rng(seed) if shuffle else None
    batches = plan_batches(shapes_of(count), batch_size, generator)
    assert sorted(np.concatenate([[], *batches])) == list(range(count))
    lengths = sorted(len(batch) for batch in batches)
    assert lengths[1:] == [batch_size] * (len(lengths) - 1)
    assert len(batches) == -(-count // batch_size)


def test_the_remainder_can_be_dropped():
    batches = plan_batches(shapes_of(10), 4, np.random.default_rng(0), drop_remainder=True)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(np.unique(np.concatenate(batches))) == 8


def test_without_a_generator_like_shapes_follow_each_other_in_their_order():
    shapes = [(64, 128), (128, 64), (64, 128), (64, 64), (128, 64)]
    found = np.concatenate(plan_batches(shapes, 2)).tolist()
    assert found == [3, 0, 2, 1, 4]


def padding(shapes, batches):
    held = sum(len(batch) * shapes[batch].max(axis=0).prod() for batch in batches)
    return 1 - shapes.prod(axis=1).sum() / held


def test_grouping_pads_much_less_than_chance():
    shapes = shapes_of(1000)
    order = np.random.default_rng(3).permutation(1000)
    by_chance = padding(shapes, [order[i : i + 8] for i in range(0, 1000, 8)])
    grouped = padding(shapes, plan_batches(shapes, 8, np.random.default_rng(3)))
    assert by_chance > 0.5 and grouped < 0.2


def test_epochs_differ_and_repeat_with_their_generator():
    def plan(seed):
        return [b.tolist() for b in plan_batches(shapes_of(60), 4, np.random.default_rng(seed))]

    assert plan(1) == plan(1) and plan(1) != plan(2)
    assert {frozenset(batch) for batch in plan(1)} != {frozenset(batch) for batch in plan(2)}
