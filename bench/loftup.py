"""Peak memory and time of LoftUp (dim 512, random weights) for a large guidance picture.

Run `python bench/loftup.py [--height 768] [--width 1024]`, in a process of its own: the peak is the
process's resident set, libraries and the result included. About two minutes on one core.
"""

import argparse
import resource
import time

import torch

from ovsslib.networks.loftup import LoftUp


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, features = LoftUp(512), torch.randn(1, 512, 14, 14)
    guidance = torch.rand(1, 3, options.height, options.width)
    start = time.perf_counter()
    result = net(features, guidance)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(
        f"loftup | guidance {options.height}x{options.width} | {seconds:.1f} s"
        f" | peak {peak / 1e9:.2f} GB, of which result {4 * result.numel() / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
