"""The flow: an image and words in, a label map out."""

from ovsslib.segmenter.encoding import EncodedPicture, PictureInput, Words, encode_pictures
from ovsslib.segmenter.last_block import cosine_logits
from ovsslib.segmenter.loading import PREFERRED, load
from ovsslib.segmenter.many import Many, WordsByPicture, read_words_by_picture
from ovsslib.segmenter.opened import OpenedPicture
from ovsslib.segmenter.segmenter import Segmenter, window_logits_of

__all__ = [
    "PREFERRED",
    "EncodedPicture",
    "Many",
    "OpenedPicture",
    "PictureInput",
    "Segmenter",
    "Words",
    "WordsByPicture",
    "cosine_logits",
    "encode_pictures",
    "load",
    "read_words_by_picture",
    "window_logits_of",
]  # fmt: skip
