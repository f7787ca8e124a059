"""TensorFlow Serving's REST protocol: from the json of a request to arrays, and from arrays to the json of an answer.

    row format       {"signature_name": S, "instances": [item, ...]}  ->  {"predictions": [{output: value}, ...]}
    column format    {"signature_name": S, "inputs": values}          ->  {"outputs": {output: values}}
    error            {"error": message}

An item or value is a number, a string, `{"b64": text}` for bytes, lists of them, or a dict of them by input name. A
signature of one output gives its values without the name.

Reference: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
import dataclasses
import itertools

import numpy as np
import orjson

DEFAULT_SIGNATURE = "serving_default"
NUMBERS = {int, float, bool}  # an array of bool alone is refused with its dtype


class RequestError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP. TensorFlow Serving's: 400 for what cannot be understood, 404 for an unknown model, 503 where
            the queue is full, 504 where the time is over.
        message: what is wrong.
    """

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class PredictRequest:
    """What a client asks for.

    Args:
        signature: its name.
        inputs: dict of arrays by input name; strings are bytes in arrays of objects.
        is_row: row format, else column format.
    """

    signature: str
    inputs: dict
    is_row: bool


def parse_predict(body, signatures):
    """Read the body of a predict request.

    Args:
        body: bytes.
        signatures: `{signature: {input: tf.TensorSpec}}`.

    Returns:
        `PredictRequest` whose inputs have the signature's dtypes, and shapes that fit it.

    Raises:
        RequestError: status 400; it says what is wrong and where.
    """
    document = _parse_json(body)
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise RequestError(400, "'signature_name' key must be a string value.")
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        known = ", ".join(sorted(signatures))
        raise RequestError(
            400, f'Serving signature name: "{name}" not found in signature def; there are {known}'
        )
    is_row = "instances" in document
    if is_row == ("inputs" in document):
        raise RequestError(400, "Expecting one of 'inputs' or 'instances' keys, and not both")
    specs = signatures[name]
    columns = _rows(document, specs) if is_row else _columns(document["inputs"], specs)
    inputs = {key: _to_array(columns[key], spec, key) for key, spec in specs.items()}
    return PredictRequest(name, inputs, is_row)


def predict_answer(outputs, is_row):
    """The body of the answer to a predict request.

    Args:
        outputs: dict of arrays; in row format all of them have one row an instance.
        is_row: row format, else column format.

    Returns:
        bytes of json.

    Raises:
        RequestError: status 400, row format is not possible with these outputs.
    """
    values = {name: _json_values(array) for name, array in outputs.items()}
    if not is_row:
        return to_json({"outputs": _unnamed(values)})
    lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(lengths) != 1 or None in lengths:
        raise RequestError(
            400, "This signature's outputs have no row an instance: send 'inputs', not 'instances'"
        )
    rows = [
        _unnamed({name: array[row] for name, array in values.items()})
        for row in range(lengths.pop())
    ]
    return to_json({"predictions": rows})


def status_answer(version):
    """The state of the model that is served."""
    status = {"error_code": "OK", "error_message": ""}
    states = [{"version": str(version), "state": "AVAILABLE", "status": status}]
    return to_json({"model_version_status": states})


def metadata_answer(name, version, definitions):
    """Which signatures there are, with names, dtypes and shapes.

    Args:
        name, version: of the model.
        definitions: `{signature: dict}`, `SignatureDef`s as json.
    """
    spec = {"name": name, "signature_name": "", "version": str(version)}
    return to_json(
        {"model_spec": spec, "metadata": {"signature_def": {"signature_def": definitions}}}
    )


def error_answer(message):
    """The body of an error."""
    return to_json({"error": message})


def to_json(document):
    """bytes; arrays become lists, float32 numbers as short as they can be read back."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse_json(body):
    if not body:
        raise RequestError(400, "JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(400, f"JSON Value of type {type(document).__name__} is not object")
    return document


def _rows(document, specs):
    """`{input: list of one value an instance}`."""
    instances = document["instances"]
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "Expecting 'instances' to be a list with one value at least")
    if not specs:
        raise RequestError(400, "This signature has no inputs: send 'inputs': {}")
    named = [isinstance(item, dict) and "b64" not in item for item in instances]
    if not any(named) and len(specs) == 1:
        return {name: instances for name in specs}
    for index, (item, is_named) in enumerate(zip(instances, named)):
        if not is_named or set(item) != set(specs):
            raise RequestError(
                400, f"instances[{index}]: expecting an object with the keys {sorted(specs)}"
            )
    return {name: [item[name] for item in instances] for name in specs}


def _columns(values, specs):
    """`{input: values}`."""
    if isinstance(values, dict) and "b64" not in values:
        missing = sorted(set(specs) - set(values))
        if missing:
            raise RequestError(400, f"Missing named inputs {missing} in 'inputs' object.")
        return values
    if len(specs) != 1:
        raise RequestError(400, f"inputs: expecting an object with the keys {sorted(specs)}")
    return {name: values for name in specs}


def _to_array(values, spec, name):
    is_text = spec.dtype.as_numpy_dtype is object
    array = _to_strings(values, spec, name) if is_text else _to_numbers(values, spec, name)
    if not spec.shape.is_compatible_with(array.shape):
        raise RequestError(
            400, f"{name}: shape {_shape(spec.shape)} wanted, got {_shape(array.shape)}"
        )
    return array


def _to_strings(values, spec, name):
    if spec.shape.rank == 0:
        array = np.empty((), object)
        array[()] = _to_bytes(values, name)
        return array
    if not isinstance(values, list):
        raise RequestError(400, f"{name}: a list of strings wanted")
    array = np.empty(len(values), object)
    array[:] = [_to_bytes(item, f"{name}[{index}]") for index, item in enumerate(values)]
    return array


def _to_bytes(value, place):
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or list(value) != ["b64"] or not isinstance(value["b64"], str):
        raise RequestError(400, f"{place}: not formatted correctly for base64 data")
    text = value["b64"]
    try:
        # As TensorFlow Serving does, missing padding is forgiven.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{place}: Unable to base64 decode") from error


def _to_numbers(values, spec, name):
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    shape, leaves, types = _flatten(values, name)
    if not types <= NUMBERS:
        raise RequestError(400, f"{name}: JSON Value is not of expected type: {spec.dtype.name}")
    try:
        array = np.array(leaves).reshape(shape)
    except ValueError as error:
        raise RequestError(400, f"{name}: lists of {len(shape)} depths") from error
    if array.size == 0:
        return array.astype(dtype) if array.dtype.kind in "iuf" else np.zeros(array.shape, dtype)
    whole = dtype.kind in "iu"
    if array.dtype.kind not in ("iu" if whole else "iuf"):
        raise RequestError(400, f"{name}: JSON Value is not of expected type: {spec.dtype.name}")
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    if array.min() < limits.min or array.max() > limits.max:
        raise RequestError(400, f"{name}: {limits.min} to {limits.max} wanted")
    return array.astype(dtype)


def _flatten(values, name):
    """The shape of lists of lists, what lies in the innermost ones, and the types of that.

    NumPy would do it by itself, but give each text among the values the room of the longest one.
    """
    shape, level = [], [values]
    while (types := set(map(type, level))) == {list}:
        length, *others = set(map(len, level))
        if others:
            break
        shape.append(length)
        level = list(itertools.chain.from_iterable(level))
    if list in types:
        raise RequestError(400, f"{name}: lists of different lengths or depths")
    return shape, level, types


def _json_values(array):
    """An array that orjson writes: strings as lists of text."""
    if array.dtype == object:
        text = [value.decode("utf-8", "replace") for value in array.ravel()]
        return text if array.ndim else text[0]
    return np.ascontiguousarray(array) if array.ndim else array.item()


def _unnamed(values):
    return next(iter(values.values())) if len(values) == 1 else values


def _shape(shape):
    return "(" + ", ".join("?" if side is None else str(side) for side in shape) + ")"
