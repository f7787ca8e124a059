"""Kernels in 16 and 8 bits, read back by ONNX's reference interpreter: a layer of the unit matrix gives its kernel."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]: make test-optional")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from kmaskrcnn.export.onnx_weights import quantise_weights  # noqa: E402

# Three inputs of four output channels. Largest of a channel: 127, 0.5, 0 and 1.27.
KERNEL = np.float32([[127, 0.5, 0, 0.017], [1.4, 0.1, 0, -1.27], [-2.6, -0.5, 0, 0.004]])
IN_8_BITS = [[127, 0.5, 0, 0.02], [1, 25 / 254, 0, -1.27], [-3, -0.5, 0, 0]]
# Axes of a kernel from (input, output), and back from what the layer gives.
LAYERS = {
    "Conv": lambda kernel: kernel.T[:, :, None, None],
    "ConvTranspose": lambda kernel: kernel[:, :, None, None],
    "MatMul": lambda kernel: kernel,
    "Gemm": lambda kernel: kernel,
    "turned Gemm": lambda kernel: kernel.T,
}


def document(kind, kernel=KERNEL):
    """A layer and, beside it, a constant that is no kernel."""
    values = {"kernel": LAYERS[kind](kernel), "anchors": np.float32([1000.3])}
    options = {"transB": 1} if kind == "turned Gemm" else {}
    nodes = [
        helper.make_node(kind.split()[-1], ["x", "kernel"], ["y"], **options),
        helper.make_node("Identity", ["anchors"], ["same"]),
    ]
    sides = [1] * (values["kernel"].ndim - 2)
    shapes = {"x": [3, 3, *sides], "y": [3, 4, *sides], "same": [1]}
    x, *outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [x],
        outputs,
        [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def kernel_of(layer, kind):
    """What the layer makes of the unit matrix, `(input, output)`."""
    unit = np.eye(3, dtype="float32")
    x = unit if kind in ("MatMul", "Gemm", "turned Gemm") else unit[:, :, None, None]
    y, anchors = ReferenceEvaluator(layer).run(None, {"x": x})
    assert anchors == np.float32(1000.3)  # what is no kernel stays
    return y.reshape(3, -1)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "bits, wanted", [("float16", KERNEL.astype("float16")), ("int8", IN_8_BITS)]
)
def test_each_output_channel_is_rounded_by_itself(kind, bits, wanted):
    layer = document(kind)
    np.testing.assert_array_equal(kernel_of(layer, kind), KERNEL)
    quantise_weights(layer, bits)
    onnx.checker.check_model(layer, full_check=True)
    np.testing.assert_allclose(kernel_of(layer, kind), wanted, rtol=1e-6)
    stored = {weights.name: weights.data_type for weights in layer.graph.initializer}
    kinds = {"float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
    assert stored[f"kernel_{bits}"] == kinds[bits] and "kernel" not in stored


def test_what_float16_cannot_hold_stays():
    layer = document("MatMul", KERNEL * 1000)
    quantise_weights(layer, "float16")
    np.testing.assert_array_equal(kernel_of(layer, "MatMul"), KERNEL * 1000)
