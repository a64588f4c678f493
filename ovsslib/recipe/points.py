"""The points of the flow, the hooks that each point calls, and what stages may say of themselves."""

from collections.abc import Mapping

POINTS: Mapping[str, Mapping[str, int]] = {
    # point: {hook: number of arguments}, in the order of the flow
    "text": {"on_text": 2},  # words -> text features, once per list of words
    "words": {"keep_words": 1},  # which of the words are in the picture at all
    "windows": {"on_crops": 2},  # image -> windows, windows -> stitched logits
    "views": {"views": 1, "merge": 2},  # window -> engineered views of it
    "trunk": {"on_block": 3, "on_block_weights": 3},  # all blocks but the last
    "attention": {
        "on_weights": 2,
        "feed_back": 2,
        "second_weights": 2,
        "replace_block": 1,
    },  # last block
    "picture": {
        "replace_windows": 1,
        "picture_logits": 1,
    },  # all windows at once, before the last block
    "features": {"on_features": 2},  # patch features: upsampling, smoothing, regions
    "picture_text": {"on_picture_text": 2},  # text features moved by the picture's own patches
    # logits of one window, then of all windows at once
    "similarity": {"on_window_text": 2, "on_similarity": 2, "on_all_windows": 2},
    # stitched logits at the network picture's size, at the image's, then probabilities
    # `on_queries`: what `on_logits` does, for a stage that refines each query by itself
    "refine": {"on_network_logits": 2, "on_logits": 2, "on_queries": 3, "on_probabilities": 2},
    "scores": {"class_scores": 2},  # logits -> class scores without a softmax
    "confidence": {"on_scaled_logits": 2, "on_scores": 3},  # calibration, hierarchy
    "labels": {"on_labels": 2, "threshold": 2},  # scores -> label map
}
FURTHER_METHODS = {
    # what a settings class may have besides hooks, whatever its point: number of arguments
    "taps": 1,  # layers -> blocks whose q, k, v are needed
    "inputs": 1,  # layers -> blocks whose input tokens are needed
    "check": 1,  # backbone -> raises if this backbone cannot run the stage
    "refuse": 1,  # recipe -> why a combination cannot work
    "inert": 1,  # recipe -> why it cannot change the label map where it stands
    "group_features": 3,  # backbone, text, text settings -> further text rows behind the queries
    "further_texts": 3,  # backbone, text, text settings -> {name: text rows} for the stage's own use
    "sentences": 2,  # vocabulary, text settings -> {name: sentences} that the stage encodes beside the recipe's own
    "extra_texts": 2,  # backbone, text settings -> further text rows of a first pass
    "guide_name": 0,  # name of the second encoder that is needed, or None
    "proposer_name": 0,  # name of the mask proposer that is needed
    "keep_of_trunk": 1,  # trunk result of the whole picture -> what a later point needs of it
    "networks": 1,  # backbone -> {name: hash} of further weights, part of a record's key
}
ALWAYS_ON = ("text", "windows", "attention", "labels")
ONE_OF_A_KIND = ("views", "replace_block", "replace_windows", "picture_logits", "class_scores")
"""Hooks that at most one stage of a recipe may have."""
CAPABILITIES = {
    # capability: hooks that imply it
    "reads_probabilities": ("on_probabilities",),
    "needs_text": ("feed_back", "second_weights"),
    "replaces_block": ("replace_block", "replace_windows", "picture_logits"),
    "changes_trunk": ("on_block", "on_block_weights"),
    "reads_scores": (),  # needs the class scores of the whole image where it makes labels
    "reads_scaled_logits": (),  # compares scaled logits beyond their order (a soft hierarchy)
    "ignores_attention": (),  # computes the last block without the settings of the stage `attention`
    "compares_in_place": (),  # looks at the first view's features, which must not be flipped
    "replaces_weights": (),  # gives the last block's weights by itself, whatever `attention` says
    "one_map": (),  # gives one map of the whole picture, so that stages per window have none to look at
    "per_pixel": (),  # makes a pixel's class scores from its own logits alone
    "ignores_windows": (),  # takes the picture as it is, whatever `windows` says
    "needs_background": (),  # falls back to the words' background class, and raises without one
    "patches_only": (),  # its last block gives no class token; beside it stands CLIP's own
    "asks_clip_again": (),  # behind the last block it asks CLIP for more: inner blocks, embeddings of pictures
    "untraceable": (),  # steps in the trunk or the last block that no graph of operators has
    "merges_synonyms": (),  # makes class scores by itself, whatever `labels.merge` says
}
"""What a stage may say of itself in a class attribute `capabilities`, so that no stage asks another's name."""
