"""Weights: checkpoints on disk or on the hub, streamed to a backend's packer."""

from zif.contract.weights import Shard
from zif.weights.checkpoint import Checkpoint, Tensors, open_checkpoint
from zif.weights.head import with_its_head
from zif.weights.load import LoadFormat, load_weights, parameters_per_token, weight_bytes

__all__ = [
    "Checkpoint",
    "LoadFormat",
    "Shard",
    "Tensors",
    "load_weights",
    "open_checkpoint",
    "parameters_per_token",
    "weight_bytes",
    "with_its_head",
]
