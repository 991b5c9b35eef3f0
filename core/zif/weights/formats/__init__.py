"""Dialects: how checkpoints store weights, each read to host arrays of the shapes that models name.

A format is the checkpoint's, a kernel the backend's: every format is served by every backend through ``decode``, and a
packer that has kernels for one takes it undecoded (:meth:`zif.contract.packer.Packer.encoded`). A new dialect is a
subclass of :class:`WeightFormat` and its line in ``METHODS`` (``finding.py``).
"""

from zif.weights.formats.finding import METHODS, find_format
from zif.weights.formats.format import FormatTensors, Plain, Wanted, WeightFormat

__all__ = ["METHODS", "FormatTensors", "Plain", "Wanted", "WeightFormat", "find_format"]
