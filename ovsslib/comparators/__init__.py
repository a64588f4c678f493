"""Trained models that the sources quote, behind the segmenter's interface: same call, same evaluation, same tables::

    ovsslib.load("clipseg")("photo.jpg", ["person", "dog"])

They are no training-free methods and stand in groups of their own (`Known.group`). Those with a closed vocabulary map
the words to their labels by name and synonym and say which words they lack.
"""

from ovsslib.comparators.comparator import Comparator
from ovsslib.comparators.known import GROUPS, Known, Quoted, known, names, quoted
from ovsslib.comparators.loading import load

__all__ = ["GROUPS", "Comparator", "Known", "Quoted", "known", "load", "names", "quoted"]
