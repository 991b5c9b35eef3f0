"""Kernels in Triton for any device that Triton and torch both know.

``TritonKernels(Machine(...))`` is a provider. Importing this imports triton and torch; nothing in core
does so unasked.
"""

from zif.portable.triton.kernels import TritonKernels
from zif.portable.triton.launching import Launch, Machine, launch

__all__ = ["Launch", "Machine", "TritonKernels", "launch"]
