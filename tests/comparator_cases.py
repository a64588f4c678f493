"""Trained models in small: tiny random configurations of the real classes, saved with their real processors."""

import json
from pathlib import Path

import torch

from ovsslib import (
    _torchvision,  # noqa: F401 - must come before anything that imports torchvision
)

LABELS = ("cat", "wall-brick", "sky-other-merged", "couch", "door, double door")
SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
    "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
SIZE = {"shortest_edge": 64, "longest_edge": 128}


def tokenizer():
    """CLIP's tokenizer without merges: every letter is a token."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


def _text() -> dict:
    count = len(tokenizer())
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "vocab_size": count, "max_position_embeddings": 32, "eos_token_id": count - 1,
        "bos_token_id": count - 2, "pad_token_id": count - 1,
    }  # fmt: skip


def _vision() -> dict:
    return {
        "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8,
    }  # fmt: skip


def clipseg():
    import transformers as tf

    config = tf.CLIPSegConfig(
        text_config=_text(), vision_config={**_vision(), "num_hidden_layers": 3}, projection_dim=16,
        extract_layers=[0, 1, 2], reduce_dim=8, decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    pictures = tf.ViTImageProcessor(size={"height": 32, "width": 32})
    return tf.CLIPSegForImageSegmentation(config), tf.CLIPSegProcessor(pictures, tokenizer())


def groupvit():
    import transformers as tf

    groups = {
        "depths": [1, 1, 1],
        "num_hidden_layers": 3,
        "num_group_tokens": [4, 2, 0],
        "num_output_groups": [4, 2, 0],
    }
    config = tf.GroupViTConfig(
        text_config=_text(), vision_config={**_vision(), **groups}, projection_dim=16,
        projection_intermediate_dim=32,
    )  # fmt: skip
    pictures = tf.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return tf.GroupViTModel(config), tf.CLIPProcessor(pictures, tokenizer())


def sam3():
    import transformers as tf

    trunk = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
        "global_attn_indexes": [1], "pretrain_image_size": 28,
    }  # fmt: skip
    part = {"hidden_size": 32, "num_attention_heads": 2}
    stack = {**part, "num_layers": 1, "intermediate_size": 32}
    config = tf.Sam3Config(
        vision_config={"backbone_config": trunk, "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        text_config={**_text(), "projection_dim": 16}, geometry_encoder_config=stack, detr_encoder_config=stack,
        detr_decoder_config={**stack, "num_queries": 5}, mask_decoder_config=part,
    )  # fmt: skip
    pictures = tf.Sam3ImageProcessor(size={"height": 56, "width": 56})
    return tf.Sam3Model(config), tf.Sam3Processor(pictures, tokenizer())


def _named() -> dict:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}


def maskformer():
    import transformers as tf

    decoder = tf.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=6,
    )  # fmt: skip
    config = tf.MaskFormerConfig(
        backbone_config=tf.SwinConfig(**SWIN), decoder_config=decoder, fpn_feature_size=32,
        mask_feature_size=32, **_named(),
    )  # fmt: skip
    return tf.MaskFormerForInstanceSegmentation(config), tf.MaskFormerImageProcessor(size=SIZE)


def mask2former():
    import transformers as tf

    config = tf.Mask2FormerConfig(
        backbone_config=tf.SwinConfig(**SWIN), hidden_dim=32, feature_size=32, mask_feature_size=32,
        num_queries=6, decoder_layers=3, encoder_layers=1, num_attention_heads=2, dim_feedforward=32,
        encoder_feedforward_dim=32, **_named(),
    )  # fmt: skip
    return tf.Mask2FormerForUniversalSegmentation(config), tf.Mask2FormerImageProcessor(size=SIZE)


def oneformer(folder: Path):
    import transformers as tf

    count = len(tokenizer())
    config = tf.OneFormerConfig(
        backbone_config=tf.SwinConfig(**SWIN), num_queries=6, hidden_dim=32, mask_dim=32, conv_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=3,
        num_attention_heads=2, text_encoder_width=32, text_encoder_vocab_size=count,
        text_encoder_num_layers=1, text_encoder_context_length=16, task_seq_len=16, max_seq_len=16,
        text_encoder_n_ctx=4, query_dec_layers=1, is_training=False, **_named(),
    )  # fmt: skip
    names = {str(index): {"name": name, "isthing": 1} for index, name in enumerate(LABELS)}
    (folder / "classes.json").write_text(json.dumps(names))
    pictures = tf.OneFormerImageProcessor(
        size=SIZE, class_info_file="classes.json", repo_path=str(folder), num_text=2
    )
    model = tf.OneFormerForUniversalSegmentation(config)
    return model, tf.OneFormerProcessor(pictures, tokenizer(), 16, 16)


MAKERS = {
    "clipseg": clipseg, "groupvit": groupvit, "sam3": sam3, "maskformer": maskformer, "mask2former": mask2former,
    "oneformer": oneformer,
}  # fmt: skip


def save_tiny(name: str, folder: Path, seed: int = 0) -> Path:
    """A folder with a tiny random model of this name and its processor."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, processor = MAKERS[name](folder) if name == "oneformer" else MAKERS[name]()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    if (
        name == "oneformer"
    ):  # as on the hub: the list of names lies elsewhere, and is not to be fetched
        (folder / "classes.json").unlink()
    return folder


def save_tiny_deeplab(folder: Path, labels=("background", *LABELS), seed: int = 0) -> Path:
    """A folder with torchvision's smallest DeepLabV3 of random weights, as a training here would write it."""
    from safetensors.torch import save_file
    from torchvision.models import get_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    architecture = "deeplabv3_mobilenet_v3_large"
    model = get_model(architecture, weights=None, weights_backbone=None, num_classes=len(labels))
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "labels": list(labels), "resize": 64}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


SHAPE = {"blocks": [0, 11], "width": 8, "pyramid": 8, "rates": [1, 2], "detail": 4}


def save_tiny_scenes(folder: Path, words: bool = False, labels=LABELS, seed: int = 0) -> Path:
    """A folder with a narrow decoder on the shipped SceneCLIP, random weights, in half precision: for labels, or for words."""
    from safetensors.torch import save_file

    from ovsslib import load_backbone
    from ovsslib.networks.deeplab import MaskDecoder

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    trunk = load_backbone("sceneclip")
    outputs = trunk.dim if words else len(labels)
    shape = {**SHAPE, "token_width": trunk.width, "residual": words}
    state = MaskDecoder(outputs, **shape).state_dict()
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, folder / "model.safetensors")
    own = (
        {"dim": outputs, "temperature": 0.05, "shown": ["sky"]}
        if words
        else {"labels": list(labels)}
    )
    config = {
        "architecture": "word_pixels" if words else "deeplabv3_on_tokens", "trunk": "sceneclip",
        "trunk_hash": trunk.weights_hash, "short_side": 64, "window": 64, **shape, **own,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
