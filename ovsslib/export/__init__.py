"""A recipe as files that run without PyTorch's weights: two ONNX graphs, the tokenizer's files, one description."""

from ovsslib.export.opening import is_exported, open_exported
from ovsslib.export.refusing import why_not_one_graph
from ovsslib.export.writing import ExportReport, export_onnx

__all__ = ["ExportReport", "export_onnx", "is_exported", "open_exported", "why_not_one_graph"]
