"""Tensor parallelism: what core puts between a model and the ops where several ranks share its layers."""

from zif.parallel.ops import parallel_ops

__all__ = ["parallel_ops"]
