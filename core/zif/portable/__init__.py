"""Kernels that several vendors' compilers take; a backend lists those it wants among its providers."""
