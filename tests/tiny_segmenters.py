"""Tiny random segmenters of the real classes of transformers: SAM, SAM 2, SAM 3."""

from pathlib import Path
from typing import Any

import pytest
import torch

DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "iou_head_hidden_dim": 16}  # fmt: skip
PROMPTS = {"hidden_size": 16, "mask_input_channels": 4}
HIERA = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
    "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 2, 2, 2], "global_attention_blocks": [4],
    "window_positional_embedding_background_size": [2, 2],
}  # fmt: skip
PYRAMID = {"fpn_hidden_size": 16, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
SAM_3 = {
    "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 56, "pretrain_image_size": 28, "patch_size": 14, "window_size": 2,
    "global_attn_indexes": [1],
}  # fmt: skip


def make(name: str) -> tuple[Any, Any]:
    """Model and image processor of a tiny random segmenter."""
    transformers = pytest.importorskip("transformers")
    if name == "sam":
        vision = {
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 16, "mlp_dim": 32, "global_attn_indexes": [1], "window_size": 2, "num_pos_feats": 8,
        }  # fmt: skip
        prompts = {**PROMPTS, "image_size": 64, "patch_size": 16}
        config = transformers.SamConfig(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER
        )
        processor = transformers.SamImageProcessor(
            size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
        )
        return transformers.SamModel(config), processor
    side, patch = (64, 16) if name == "sam2" else (56, 14)
    vision = {"backbone_config": HIERA if name == "sam2" else SAM_3, **PYRAMID}
    if name == "sam2":
        vision["backbone_channel_list"] = [64, 32, 16, 8]
    which = "Sam2" if name == "sam2" else "Sam3Tracker"
    config = getattr(transformers, f"{which}Config")(
        vision_config=vision,
        prompt_encoder_config={**PROMPTS, "image_size": side, "patch_size": patch},
        mask_decoder_config=DECODER,
    )
    processor = getattr(transformers, f"{which[:4]}ImageProcessor")(
        size={"height": side, "width": side}, mask_size={"height": 16, "width": 16}
    )
    return getattr(transformers, f"{which}Model")(config), processor


def save_segmenter(name: str, folder: Path) -> Path:
    """A tiny random "sam", "sam2" or "sam3" with its image processor, saved as transformers does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model, processor = make(name)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
