"""The weights of an ONNX file in fewer bits: kernels of convolutions and dense layers, most of what a file holds.

    float16    kernel in 16 bits -> Cast             -> float32 -> the layer, as before
    int8       kernel in 8 bits  -> DequantizeLinear -> float32 -> the layer, as before; one scale an output channel

A runtime computes in float32. Inputs in 8 bits as well, what ONNX Runtime calls dynamic quantisation, lost half of the
nuclei on real pictures. Everything else stays float32: anchors of hundreds of pixels need more than 11 bits.
"""

import numpy as np

# The axis of output channels, by operation; the kernel is its second input.
CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}
INT8_MAX = 127
FLOAT16_MAX = float(np.finfo(np.float16).max)


def quantise_weights(document, kind):
    """Store the kernels in fewer bits.

    Args:
        document: an `onnx.ModelProto` of float32; it is changed.
        kind: `"float16"` or `"int8"`.

    Reference: Jacob et al., "Quantization and Training of Neural Networks", section 2.1, without zero points.
    """
    from onnx import TensorProto

    axes, nodes = _kernel_axes(document.graph), []
    store = {"float16": _store_float16, "int8": _store_int8}[kind]
    for weights in list(document.graph.initializer):
        if weights.name in axes and weights.data_type == TensorProto.FLOAT:
            nodes += store(document.graph, weights, axes[weights.name])
    # A graph's nodes are in the order of their work.
    nodes += document.graph.node
    del document.graph.node[:]
    document.graph.node.extend(nodes)


def _kernel_axes(graph):
    """`{kernel's name: axis of its output channels}`."""
    axes = {}
    for node in graph.node:
        if node.op_type in CHANNEL_AXES:
            is_turned = any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = 0 if is_turned else CHANNEL_AXES[node.op_type]
    return axes


def _store_float16(graph, weights, axis):
    from onnx import TensorProto, helper, numpy_helper

    name, values = weights.name, numpy_helper.to_array(weights)
    if np.abs(values).max(initial=0.0) > FLOAT16_MAX:
        return []
    weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
    return [helper.make_node("Cast", [weights.name], [name], to=TensorProto.FLOAT)]


def _store_int8(graph, weights, axis):
    from onnx import helper, numpy_helper

    name, values = weights.name, numpy_helper.to_array(weights)
    axis %= values.ndim
    across = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(across, keepdims=True) / INT8_MAX
    scale[scale == 0.0] = 1.0  # a channel of zeros
    parts = {"int8": np.rint(values / scale).astype(np.int8), "scale": scale.ravel()}
    weights.CopyFrom(numpy_helper.from_array(parts["int8"], f"{name}_int8"))
    graph.initializer.append(numpy_helper.from_array(parts["scale"], f"{name}_scale"))
    inputs = [f"{name}_{part}" for part in parts]
    return [helper.make_node("DequantizeLinear", inputs, [name], axis=axis)]
