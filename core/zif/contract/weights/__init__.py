"""What a model's weights are, before and after a backend has packed them.

A model declares a tree (dict, list) of specs, each a :class:`WeightSpec`. Core streams the tensors that a spec names
from a checkpoint, decodes its dialect, and has the spec hand host arrays to the backend's packer; what comes back
takes the spec's place in the tree that the model's functions are given.
"""

from zif.contract.weights.encoded import Encoded
from zif.contract.weights.experts import ExpertsSpec, ExpertTensors
from zif.contract.weights.heads import HeadsSpec, head_linear_request
from zif.contract.weights.linear import LinearSpec
from zif.contract.weights.packed import LoopStack, PackedWeight, Split, packed_weights
from zif.contract.weights.repeated import RepeatedSpec
from zif.contract.weights.shard import ALONE, HostArray, Shard
from zif.contract.weights.spec import Loading, Shape, WeightSpec, named_specs, shares
from zif.contract.weights.tables import EmbeddingSpec, VectorSpec

__all__ = [
    "ALONE",
    "EmbeddingSpec",
    "Encoded",
    "ExpertTensors",
    "ExpertsSpec",
    "HeadsSpec",
    "HostArray",
    "LinearSpec",
    "Loading",
    "LoopStack",
    "PackedWeight",
    "RepeatedSpec",
    "Shape",
    "Shard",
    "Split",
    "VectorSpec",
    "WeightSpec",
    "head_linear_request",
    "named_specs",
    "packed_weights",
    "shares",
]
