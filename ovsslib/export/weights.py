"""Smaller weights for a graph that was written in float32."""

from pathlib import Path
from typing import Any

import numpy as np

from ovsslib.errors import require

WEIGHTS = ("fp32", "fp16", "int8")
"""How weights are stored. Either fp32 as they are; fp16 in 16 bits, computed in 32; int8 with products of layers in 8 bits, dynamic."""
SMALLEST = 256  # entries of a tensor that is worth storing in 16 bits


def store_half(file: Path) -> None:
    """Store the large weights of a graph in 16 bits, each behind a cast to 32, which runtimes do once at loading.

    Sums and products stay in 32 bits, so that it runs on every processor; only the weights are rounded.
    """
    onnx = require("onnx", "onnx", "exporting a recipe")
    model = onnx.load(file)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < SMALLEST or not np.isfinite(half).all():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)


def quantise(file: Path) -> None:
    """Dynamic 8-bit quantisation: weights per column, activations per product at run time."""
    tool: Any = require("onnxruntime.quantization", "onnx", "exporting a recipe in int8")
    quantised = file.with_suffix(".int8.onnx")
    tool.quantize_dynamic(
        str(file),
        str(quantised),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=tool.QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    quantised.replace(file)


def apply_weights(file: Path, weights: str) -> None:
    """Rewrite a graph's file with the weights of one of `WEIGHTS`."""
    if weights == "fp16":
        store_half(file)
    elif weights == "int8":
        quantise(file)
