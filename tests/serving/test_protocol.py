"""TensorFlow Serving's json: what is read from it and written to it, by the examples of its documentation."""

import json
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("orjson", reason="needs the extra [serve]: make test-optional")

from kmaskrcnn.serving.protocol import (  # noqa: E402  only where the extra is installed
    RequestError,
    metadata_answer,
    parse_predict,
    predict_answer,
    status_answer,
)

SIGNATURES = {
    "serving_default": {"images": tf.TensorSpec((None, None, 2), tf.uint8)},
    "files": {"encoded": tf.TensorSpec((None,), tf.string)},
    "one": {"encoded": tf.TensorSpec((), tf.string)},
    "two": {"tag": tf.TensorSpec((None,), tf.string), "signal": tf.TensorSpec((None, 2))},
    "nothing": {},
}


def parse(document):
    return parse_predict(json.dumps(document).encode(), SIGNATURES)


def test_rows_and_columns_of_numbers_are_the_same():
    pixels = [[[1, 2], [3, 255]], [[0, 5], [6, 7]]]
    for key in ("instances", "inputs"):
        found = parse({key: pixels})
        assert found.signature == "serving_default" and found.is_row == (key == "instances")
        assert found.inputs["images"].dtype == np.uint8
        np.testing.assert_array_equal(found.inputs["images"], pixels)
    named = parse({"signature_name": "", "inputs": {"images": pixels}})
    np.testing.assert_array_equal(named.inputs["images"], pixels)


def test_bytes_come_in_base64():
    items = [{"b64": "aGVsbG8="}, {"b64": "aGVsbG8"}, "hello"]  # padding may be missing
    for document in (
        {"instances": items},
        {"inputs": items},
        {"inputs": {"encoded": items}},
        {"instances": [{"encoded": item} for item in items]},
    ):
        found = parse({"signature_name": "files", **document})
        assert found.inputs["encoded"].tolist() == [b"hello"] * 3
    one = parse({"signature_name": "one", "inputs": {"b64": "aGVsbG8="}})
    assert one.inputs["encoded"].shape == () and one.inputs["encoded"].item() == b"hello"


def test_several_inputs_go_by_their_names():
    rows = [{"tag": "foo", "signal": [1, 2.5]}, {"tag": {"b64": "YmFy"}, "signal": [3, 4]}]
    columns = {"tag": ["foo", "bar"], "signal": [[1, 2.5], [3, 4]]}
    for document in ({"instances": rows}, {"inputs": columns}):
        found = parse({"signature_name": "two", **document})
        assert found.inputs["tag"].tolist() == [b"foo", b"bar"]
        assert found.inputs["signal"].dtype == np.float32
        assert found.inputs["signal"].tolist() == [[1, 2.5], [3, 4]]
    assert parse({"signature_name": "nothing", "inputs": {}}).inputs == {}


@pytest.mark.parametrize(
    "body, word",
    [
        (b"", "document is empty"),
        (b"{", "JSON Parse error"),
        (b"\xff\xfe", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"[1]", "is not object"),
        ({}, "one of 'inputs' or 'instances'"),
        ({"inputs": [], "instances": []}, "one of 'inputs' or 'instances'"),
        ({"signature_name": 3, "inputs": []}, "must be a string"),
        ({"signature_name": "absent", "inputs": []}, '"absent" not found.*files, nothing, one'),
        ({"instances": {}}, "'instances' to be a list"),
        ({"instances": []}, "one value at least"),
        ({"signature_name": "nothing", "instances": [1]}, "no inputs"),
        ({"instances": [[[1, 2]], [[1, 2], [3, 4]]]}, "different lengths"),
        ({"instances": [[[1, 2], 3]]}, "different lengths or depths"),
        ({"instances": [[[[1], 2]]]}, "different lengths or depths"),
        ({"instances": [[[1, [2]]], [[1, {}]]]}, "different lengths or depths"),
        ({"instances": [[[1, {"b64": ""}]]]}, "not of expected type"),
        (b'{"inputs": ' + b"[" * 500 + b"1" + b"]" * 500 + b"}", "images: lists of 500 depths"),
        ({"instances": [[[1, 256]]]}, "0 to 255"),
        ({"instances": [[[1, -1]]]}, "0 to 255"),
        ({"instances": [[[1, 2**70]]]}, "images: "),
        ({"instances": [[[1, 0.5]]]}, "not of expected type: uint8"),
        ({"instances": [[[True, False]]]}, "not of expected type: uint8"),
        ({"instances": [[[1, None]]]}, "images: "),
        ({"instances": [[["a", "b"]]]}, "not of expected type"),
        ({"instances": [[1, 2]]}, r"images: shape \(\?, \?, 2\) wanted, got \(1, 2\)"),
        ({"instances": [[[1, 2, 3]]]}, r"got \(1, 1, 3\)"),
        ({"signature_name": "files", "inputs": "a"}, "list of strings"),
        ({"signature_name": "files", "inputs": [["a"]]}, r"encoded\[0\]: not formatted"),
        ({"signature_name": "files", "inputs": ["a", {"b64": 1}]}, r"encoded\[1\]: not formatted"),
        ({"signature_name": "files", "inputs": [{"b64": "?"}]}, r"encoded\[0\]: Unable to base64"),
        ({"signature_name": "one", "inputs": {"b64": "é"}}, "Unable to base64"),
        ({"signature_name": "two", "inputs": {"tag": ["a"]}}, "Missing named inputs"),
        ({"signature_name": "two", "inputs": ["a"]}, "expecting an object with the keys"),
        ({"signature_name": "two", "instances": ["a"]}, r"instances\[0\]: expecting an object"),
        (
            {"signature_name": "files", "instances": [{"encoded": "a"}, {"other": "a"}]},
            r"instances\[1\]: expecting an object with the keys \['encoded'\]",
        ),
    ],
)
def test_what_cannot_be_understood_is_named(body, word):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestError, match=word) as error:
        parse_predict(body, SIGNATURES)
    assert error.value.status == 400


@pytest.mark.parametrize("place", [(0, 0), (1, 0), (1, 1)])
def test_text_among_numbers_takes_no_memory(place):
    """NumPy's array of it would have 4,000 elements as long as the text: 1.6 GB."""
    pixels = [[[0, 0] for _ in range(1000)] for _ in range(2)]
    pixels[place[0]][-1][place[1]] = "a" * 100_000
    body = json.dumps({"inputs": pixels}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="not of expected type: uint8"):
            parse_predict(body, SIGNATURES)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(
            body
        )  # lists and numbers themselves take 14
    finally:
        tracemalloc.stop()


@given(
    st.lists(st.integers(0, 3), max_size=5).flatmap(
        lambda shape: arrays(np.int64, tuple(shape), elements=st.integers(0, 255))
    )
)
def test_lists_of_any_depth_have_the_shape_that_numpy_finds(array):
    wanted = np.asarray(array.tolist())
    spec = {"serving_default": {"x": tf.TensorSpec(wanted.shape, tf.uint8)}}
    body = json.dumps({"inputs": {"x": array.tolist()}}).encode()
    found = parse_predict(body, spec).inputs["x"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_answers_in_rows_and_columns():
    outputs = {
        "scores": np.array([[0.1, 0.25], [1, 0]], np.float32),
        "count": np.array([2, 0], np.int32),
        "errors": np.array([b"", "größer".encode()], object),
    }
    assert json.loads(predict_answer(outputs, True)) == {
        "predictions": [
            {"scores": [0.1, 0.25], "count": 2, "errors": ""},
            {"scores": [1.0, 0.0], "count": 0, "errors": "größer"},
        ]
    }
    assert json.loads(predict_answer(outputs, False)) == {
        "outputs": {"scores": [[0.1, 0.25], [1.0, 0.0]], "count": [2, 0], "errors": ["", "größer"]}
    }


def test_a_single_output_has_no_name():
    assert json.loads(predict_answer({"a": np.array([1, 2])}, True)) == {"predictions": [1, 2]}
    assert json.loads(predict_answer({"a": np.array([1, 2])}, False)) == {"outputs": [1, 2]}
    empty = {"a": np.zeros((0, 4, 0), np.uint8), "b": np.array(b"x", object)}
    assert json.loads(predict_answer(empty, False)) == {"outputs": {"a": [], "b": "x"}}


@pytest.mark.parametrize("other", [np.zeros(3), np.array(1.0)])
def test_outputs_without_rows_cannot_be_given_in_rows(other):
    with pytest.raises(RequestError, match="send 'inputs', not 'instances'"):
        predict_answer({"a": np.zeros(2), "b": other}, True)


def test_numbers_are_short_and_read_back_to_the_last_bit():
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    body = predict_answer({"a": values}, False)
    np.testing.assert_array_equal(np.float32(json.loads(body)["outputs"]), values)
    assert len(body) < 13 * 1000  # 64 bits would take 20 characters


def test_status_and_metadata():
    states = json.loads(status_answer(3))["model_version_status"]
    assert states == [
        {
            "version": "3",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
    answer = json.loads(metadata_answer("m", 3, {"s": {}}))
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    assert answer["metadata"] == {"signature_def": {"signature_def": {"s": {}}}}
