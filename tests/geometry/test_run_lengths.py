"""Many masks' run lengths at once, against pycocotools one mask at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import runs_by_loop
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry import segmentations
from kmaskrcnn.geometry.run_lengths import compress, decompress, windows_to_rles
from kmaskrcnn.geometry.segmentations import mask_areas, to_rle, to_rles


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@st.composite
def masks_of_a_picture(draw):
    """Some of them empty, some full: their runs end and begin where the next mask's do."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    shares = draw(st.lists(st.sampled_from([0, 0.1, 0.5, 0.9, 1]), min_size=1, max_size=5))
    return [generator.random(size) < share for share in shares]


@settings(max_examples=200)
@given(masks_of_a_picture())
def test_several_masks_are_encoded_as_each_alone(masks):
    size = masks[0].shape
    rles = windows_to_rles([(mask, 0, 0) for mask in masks], size)
    assert [rle["counts"].encode() for rle in rles] == [encode(mask) for mask in masks]
    assert all(rle["size"] == list(size) for rle in rles)
    runs, lengths = decompress([encode(mask) for mask in masks])
    parts = np.split(runs, np.cumsum(lengths)[:-1])
    assert [part.tolist() for part in parts] == [runs_by_loop(mask) for mask in masks]


def test_a_window_lies_where_it_is_said_to_lie():
    window = np.array([[True, False], [True, True]])
    full = np.zeros((5, 7), bool)
    full[3:5, 2:4] = window
    (rle,) = windows_to_rles([(window, 3, 2)], full.shape)
    assert rle["counts"].encode() == encode(full)


def test_no_masks():
    assert windows_to_rles([], (4, 4)) == []
    runs, lengths = decompress([])
    assert runs.shape == lengths.shape == (0,)


def test_numbers_of_every_length():
    """Runs of up to 2^30 pixels, whose differences are as large with either sign."""
    runs = np.array([2**n + s for n in range(1, 30) for s in (-1, 0, 1)] + [2**30, 1, 2**30, 1, 3])
    (text,) = compress(runs, np.array([len(runs)]))
    assert decompress([text.encode()])[0].tolist() == runs.tolist()
    rle = {"size": [1, int(runs.sum())], "counts": runs.tolist()}
    if runs.sum() < 2**32:
        assert coco_mask.frPyObjects(rle, *rle["size"])["counts"] == text.encode()


def test_an_empty_text_between_others_has_no_runs():
    runs, lengths = decompress([encode(np.ones((2, 2))), b"", encode(np.zeros((1, 3)))])
    assert runs.tolist() == [0, 4, 3] and lengths.tolist() == [2, 0, 1]


def test_the_malformed_one_of_many_is_found():
    good = {"size": [2, 2], "counts": encode(np.ones((2, 2)))}
    polygon = [[0, 0, 2, 0, 2, 2]]
    for bad, word in (
        (b"P", "cut off"),
        (b"05", "sum of 5"),
        (b"", "sum of 0"),
        ([1, 1], "sum of 2"),
    ):
        rles = [good, polygon, {"size": [2, 2], "counts": bad}, good]
        with pytest.raises(ValueError, match=word):
            to_rles(rles, [(2, 2)] * 4)
    together = to_rles([good, polygon, good], [(2, 2)] * 3)
    assert together == [to_rle(one, 2, 2) for one in (good, polygon, good)]


@pytest.mark.parametrize("at_once", [1, 5, 10**6])
def test_parts_of_any_size_are_checked(monkeypatch, at_once):
    monkeypatch.setattr(segmentations, "AT_ONCE", at_once)
    masks = [np.arange(12).reshape(3, 4) % 5 == n % 5 for n in range(20)]
    rles = [{"size": [3, 4], "counts": encode(mask)} for mask in masks]
    assert [rle["counts"] for rle in to_rles(rles, [(3, 4)] * 20)] == [encode(m) for m in masks]
    for place in (0, 7, 19):
        wrong = [*rles[:place], {"size": [3, 4], "counts": b"05"}, *rles[place + 1 :]]
        with pytest.raises(ValueError, match="sum of 5"):
            to_rles(wrong, [(3, 4)] * 20)


def test_areas_of_more_masks_than_pycocotools_sums():
    masks = [np.arange(12).reshape(3, 4) < n % 13 for n in range(300)]
    rles = [{"size": [3, 4], "counts": encode(mask)} for mask in masks]
    assert mask_areas(rles).tolist() == [n % 13 for n in range(300)]
    assert mask_areas([]).shape == (0,)
