"""How much the text classifier saves: common beginnings of prompts computed once, against batches of
prompts of one length, against one class at a time at 77 tokens.

    python bench/text.py --classes 171 --baseline-classes 171

The text tower has the size of ViT-B/16's (width 512, 12 layers, 8 heads) and random weights; the
vision tower is a stub. All ways compute the same features; the largest difference is printed with
the times. The time of the slow way is the same for every class, so it may be measured on fewer
classes and scaled.
"""

import argparse
import json
import time
from typing import Any

import torch
import torch.nn.functional as F

from ovsslib import _torchvision  # noqa: F401 - must come before open_clip
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.shared_prefixes import prefix_trees
from ovsslib.text.features import encode_prompts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

TEXT_TOWER = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
VISION_STUB = {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 1}


def text_backbone(device: str = "cpu", precision: str = "fp32") -> Backbone:
    """A CLIP with a text tower of ViT-B/16's size and seeded random weights."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    net = CLIP(embed_dim=512, vision_cfg=VISION_STUB, text_cfg=TEXT_TOWER)
    return Backbone(
        net, name="text bench", weights_hash="0" * 16, device=device, precision=precision
    )


def spread_words(count: int) -> list[str]:
    """`count` class names of COCO-Stuff, evenly spaced over its 171, as SCLIP spells them."""
    queries = Vocabulary.named("coco_stuff", names="sclip").queries
    return [queries[index * len(queries) // count] for index in range(count)]


def measure(
    classes: int = 20, baseline_classes: int = 20, device: str = "cpu", prompts: str = "imagenet80"
) -> dict[str, Any]:
    """Times in seconds for `classes` words, and their ratio.

    Returns a mapping with `seconds` (common beginnings once), `unshared_seconds` (batches of one
    length), `baseline_seconds` (one class at a time at 77 tokens, scaled from `baseline_classes`),
    `ratio`, `ratio_cpu_time` and `unshared_ratio_cpu_time` (of processor seconds, which other work
    on the machine does not inflate), `largest_difference` of the unit features, `mean_tokens`,
    `distinct_prefixes` (of all tokens, those that are computed).
    """
    backbone = text_backbone(device)
    settings = TextSettings(prompts=prompts)
    words = spread_words(classes)
    sentences = [settings.prompts_for(word) for word in words]
    flat = [sentence for group in sentences for sentence in group]
    tokens = backbone.tokenize(flat)
    encode_prompts(backbone, flat[:4])  # warm up
    encode_prompts(backbone, flat[:4], share=True)
    backbone.encode_text(tokens[:4])

    def synchronise() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def now() -> tuple[float, float]:
        synchronise()
        return time.perf_counter(), time.process_time()

    start, start_cpu = now()
    encoded = encode_prompts(backbone, flat, share=True)
    end, end_cpu = now()
    unshared = encode_prompts(backbone, flat)
    later, later_cpu = now()

    step = max(1, classes // baseline_classes)
    timed = list(range(0, classes, step))[:baseline_classes]
    rows = []
    slow_start, slow_start_cpu = now()
    for index in timed:
        rows.append(backbone.encode_text(backbone.tokenize(sentences[index])))
    slow_end, slow_end_cpu = now()
    scale = classes / len(timed)
    seconds, slow = end - start, (slow_end - slow_start) * scale
    cpu, slow_cpu = end_cpu - start_cpu, (slow_end_cpu - slow_start_cpu) * scale

    size = len(sentences[0])
    chosen = torch.cat([encoded[index * size : (index + 1) * size] for index in timed])
    unit = F.normalize(torch.cat(rows), dim=-1)
    difference = F.normalize(chosen, dim=-1) - unit
    further = F.normalize(encoded, dim=-1) - F.normalize(unshared, dim=-1)
    trees = (tree for _, tree in prefix_trees(tokens.numpy()))
    return {
        "classes": classes,
        "prompts": len(flat),
        "mean_tokens": round(float((tokens.argmax(dim=-1) + 1).float().mean()), 2),
        "tokens": int((tokens.argmax(dim=-1) + 1).sum()),
        "distinct_prefixes": sum(map(len, trees)),
        "threads": torch.get_num_threads(),
        "device": device,
        "seconds": round(seconds, 3),
        "unshared_seconds": round(later - end, 3),
        "unshared_ratio_cpu_time": round((later_cpu - end_cpu) / cpu, 2),
        "baseline_classes": len(timed),
        "baseline_seconds": round(slow, 3),
        "ratio": round(slow / seconds, 2),
        "ratio_cpu_time": round(slow_cpu / cpu, 2),
        "largest_difference": float(max(difference.abs().max(), further.abs().max())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--baseline-classes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(
        json.dumps(
            measure(arguments.classes, arguments.baseline_classes, arguments.device), indent=1
        )
    )


if __name__ == "__main__":
    main()
