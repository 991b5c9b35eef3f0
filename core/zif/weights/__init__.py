"""Weights: checkpoints on disk or on the hub, streamed to a backend's packer."""

from zif.weights.checkpoint import Checkpoint, Tensors, open_checkpoint
from zif.weights.load import LoadFormat, load_weights

__all__ = ["Checkpoint", "LoadFormat", "Tensors", "load_weights", "open_checkpoint"]
