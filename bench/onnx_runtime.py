"""An exported recipe under ONNX Runtime (and OpenVINO, where it is installed) against PyTorch, on the CPU.

Run `python bench/onnx_runtime.py [--recipe sclip] [--model sceneclip] [--weights fp32] [--windows 6] [--threads 1]`.
The recipe is exported into a temporary folder; then windows of 224 pixels go through its trunk and last block, one
window a call as the flow does it, by turns with each runtime, so that a busy machine slows all. Printed are seconds
a window (medians), the ratio to PyTorch in the same run, and the share of pixels of a drawn scene with PyTorch's label.
A runtime that is not installed is named and left out: `pip install 'ovsslib[onnx]'`, `pip install openvino`.
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
from ovsslib.segmenter import Segmenter
from ovsslib.text.vocabulary import Vocabulary

ROUNDS = 5
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def under_openvino(folder: Path, threads: int) -> Segmenter | None:
    """The exported folder with its vision graph compiled by OpenVINO, or None without that package."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    graph = openvino.Core().compile_model(str(folder / "vision.onnx"), "CPU", settings)
    segmenter = ovsslib.load(str(folder))

    def encode(pixels: torch.Tensor, switches: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = graph([pixels.float().contiguous().numpy()])
        return [torch.from_numpy(np.array(outputs[index])) for index in range(2)]

    segmenter.backbone.encode = encode
    return segmenter


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
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"onnx | not run: without {', '.join(missing)}; pip install 'ovsslib[onnx]'")
        return
    segmenter = ovsslib.load(options.recipe, options.model, options.pretrained)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "exported"
        print(export_onnx(segmenter, folder, weights=options.weights, pictures=2))
        runs = {"PyTorch": segmenter, "ONNX Runtime": ovsslib.load(str(folder))}
        compiled = under_openvino(folder, options.threads)
        if compiled is None:
            print("onnx | OpenVINO | not run: not installed; pip install openvino")
        else:
            runs["OpenVINO"] = compiled
        torch.manual_seed(0)
        windows = torch.randn(options.windows, 3, 224, 224)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                seconds[name].append(seconds_per_window(run.features, windows))
        image = read_picture(min(paths.data("scenes/images/val").glob("*.jpg")))
        words = Vocabulary.named("scenes")
        mask = segmenter(image, words).mask
        pixels = segmenter.prepare(image)[None]
        features = segmenter.features(pixels)
        plain = statistics.median(seconds["PyTorch"])
        for name, run in runs.items():
            spent = statistics.median(seconds[name])
            worst = float((run.features(pixels) - features).abs().max() / features.abs().max())
            equal = (run(image, words).mask == mask).mean()
            print(
                f"onnx | {options.recipe}, {options.weights} | {name} | {1000 * spent:.1f} ms a window"
                f" | PyTorch / it {plain / spent:.2f} | relative error {worst:.1e}"
                f" | equal pixels {100 * equal:.3f} %"
            )


if __name__ == "__main__":
    main()
