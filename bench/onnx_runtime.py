"""An exported recipe under ONNX Runtime (and OpenVINO, where it is installed) against PyTorch, on the CPU.

Run `python bench/onnx_runtime.py [--recipe sclip] [--model sceneclip] [--weights fp32] [--windows 6] [--threads 1]`.
The recipe is exported into a temporary folder; then windows of 224 pixels go through its trunk and last block, one
window a call as the flow does it, by turns with each runtime, so that a busy machine slows all. Printed are seconds
a window (medians), the ratio to PyTorch in the same run, and the share of pixels of a drawn scene with PyTorch's label.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ovsslib  # first of all: it repairs torchvision's missing operators

# isort: split
import numpy as np
import torch

from ovsslib import paths
from ovsslib.export import export_onnx
from ovsslib.images.pictures import read_picture
from ovsslib.text.vocabulary import Vocabulary

ROUNDS = 5


def openvino_features(folder: Path, threads: int) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The vision graph compiled by OpenVINO, or None without that package."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    graph = core.compile_model(str(folder / "vision.onnx"), "CPU", settings)
    return lambda pixels: torch.from_numpy(np.array(graph([pixels.numpy()])[0])).permute(0, 2, 3, 1)


def seconds_per_window(run: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> float:
    """Wall seconds of one window, one window a call."""
    start = time.perf_counter()
    for window in windows:
        run(window[None])
    return (time.perf_counter() - start) / len(windows)


def main() -> None:
    """Export, time by turns, print a row per runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="sclip")
    parser.add_argument("--model", default="sceneclip")
    parser.add_argument("--pretrained")
    parser.add_argument("--weights", default="fp32")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segmenter = ovsslib.load(options.recipe, options.model, options.pretrained)
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "exported"
        report = export_onnx(segmenter, folder, weights=options.weights, pictures=2)
        exported = ovsslib.load(str(folder))
        runs = {"PyTorch": segmenter.features, "ONNX Runtime": exported.features}
        other = openvino_features(folder, options.threads)
        if other is not None:
            runs["OpenVINO"] = other
        torch.manual_seed(0)
        windows = torch.randn(options.windows, 3, 224, 224)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                taken[name].append(seconds_per_window(run, windows))
        image = read_picture(min(paths.data("scenes/images/val").glob("*.jpg")))
        words = Vocabulary.named("scenes")
        wanted = segmenter(image, words).mask
        pixels = segmenter.prepare(image)[None]
        features = segmenter.features(pixels)
        plain = statistics.median(taken["PyTorch"])
        print(report)
        for name, run in runs.items():
            spent = statistics.median(taken[name])
            worst = float((run(pixels) - features).abs().max() / features.abs().max())
            line = f"onnx | {options.recipe}, {options.weights} | {name} | {1000 * spent:.1f} ms a window"
            line += f" | PyTorch / it {plain / spent:.2f} | relative error {worst:.1e}"
            if name == "ONNX Runtime":
                equal = (exported(image, words).mask == wanted).mean()
                line += f" | equal pixels {100 * equal:.3f} %"
            print(line)


if __name__ == "__main__":
    main()
