"""Weights: checkpoints on disk or on the hub, streamed to a backend's packer."""

from zif.weights.checkpoint import Checkpoint, Tensors, open_checkpoint
from zif.weights.load import LoadFormat, load_weights, parameters_per_token, weight_bytes
from zif.weights.shard import Shard

__all__ = [
    "Checkpoint",
    "LoadFormat",
    "Shard",
    "Tensors",
    "load_weights",
    "open_checkpoint",
    "parameters_per_token",
    "weight_bytes",
]
