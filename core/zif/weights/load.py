"""From a checkpoint's tensors to a model's packed weights, a tensor at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from zif.contract.arrays import Tree, dtype_bytes
from zif.contract.errors import WeightsError
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    HeadsSpec,
    LinearSpec,
    RepeatedSpec,
    VectorSpec,
    WeightSpec,
)
from zif.weights.dummy import DummyTensors, Shapes
from zif.weights.safetensors import HostArray
from zif.weights.shard import ALONE, Shard, linear_parts, local_weights, marked

if TYPE_CHECKING:
    from zif.contract.model import Model
    from zif.contract.packer import Packer
    from zif.weights.checkpoint import Checkpoint, Tensors

LoadFormat = Literal["auto", "dummy", "shapes"]
_SHOWN = 5  # names in a message; the rest are counted
_UNUSED = ("rotary_emb.inv_freq", ".masked_bias")  # buffers that older checkpoints carry along
_LEAVES = (LinearSpec, EmbeddingSpec, VectorSpec, ExpertsSpec, HeadsSpec)

logger = logging.getLogger(__name__)


def load_weights(
    model: Model,
    checkpoint: Checkpoint,
    packer: Packer,
    dtype: str,
    *,
    progress: bool = True,
    load_format: LoadFormat = "auto",
    shard: Shard = ALONE,
) -> dict[str, Tree]:
    """``model``'s weights, packed by ``packer`` for activations in ``dtype``, in the shape of its spec tree.

    ``shard`` says of which rank: its slices alone are read. ``model`` is the whole one in any case.

    Tensors are views of the files' pages, handed on one weight after the other and given back as
    soon as they are packed: beyond the packed weights, memory holds one tensor. ``load_format``
    ``dummy`` makes random weights and reads no tensor, ``shapes`` makes none at all. ``progress``
    shows a bar on a terminal.

    Raises :class:`WeightsError` before anything is packed if tensors are missing, of another shape
    or not floating; what the model does not use is reported once in the log.
    """
    from tqdm import tqdm

    specs = model.weights()
    tensors: Tensors | DummyTensors | Shapes
    if load_format == "auto":
        tensors = checkpoint.tensors
        _check(specs, tensors)
        _report_unused(specs, tensors)
    else:
        tensors = DummyTensors(dtype) if load_format == "dummy" else Shapes(dtype)
    total = sum(tensors.nbytes(name, shape) for spec in _leaves(specs) for name, shape in stored_shapes(spec).items())
    # disable=None: no bar where standard error is not a terminal
    disable = None if progress else True
    with tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=disable) as bar:
        packed = _Loading(tensors, packer, dtype, bar, shard).tree(specs, local_weights(model, shard.size))
    assert isinstance(packed, dict)
    return packed


def weight_bytes(model: Model, dtype: str, ranks: int = 1) -> int:
    """Bytes of a rank's part of ``model``'s weights in ``dtype``, as specs tell it: packed, they may be others."""
    shapes = [shape for spec in _leaves(local_weights(model, ranks)) for shape in stored_shapes(spec).values()]
    return sum(math.prod(shape) for shape in shapes) * dtype_bytes(dtype)


def parameters_per_token(model: Model) -> int:
    """Weights that every token of a step is multiplied with: not the head's, which are for the rows of logits."""
    return sum(map(_multiplied, _leaves(model.weights())))


def stored_shapes(spec: WeightSpec) -> dict[str, tuple[int, ...]]:
    """The tensors that a spec is made of, as models name them, with their shapes in a checkpoint."""
    if isinstance(spec, LinearSpec):
        if spec.tied is not None:
            return {}
        weights = {name: (rows, spec.in_features) for name, rows in _parts(spec, spec.names)}
        return {**weights, **{name: (rows,) for name, rows in _parts(spec, spec.bias)}}
    if isinstance(spec, EmbeddingSpec):
        return {spec.name: (spec.vocab, spec.hidden)}
    if isinstance(spec, VectorSpec):
        return {spec.name: spec.shape}
    if isinstance(spec, HeadsSpec):
        return {spec.name: (spec.heads * spec.head_rows, spec.columns)}
    into, out_of = (spec.size, spec.hidden), (spec.hidden, spec.size)
    shapes = {spec.gate: into, spec.up: into, spec.down: out_of}
    return {name.format(e=expert): shape for name, shape in shapes.items() for expert in range(spec.experts)}


class _Loading:
    """One load: packs specs, and counts what it has read."""

    def __init__(
        self, tensors: Tensors | DummyTensors | Shapes, packer: Packer, dtype: str, bar: Any, shard: Shard
    ) -> None:
        self._tensors, self._packer, self._dtype, self._bar, self._shard = tensors, packer, dtype, bar, shard

    def tree(self, specs: Tree, local: Tree) -> Tree:
        """Packed weights in the place of specs; those that are tied after what they are tied to.

        ``local`` are the specs of the shard.
        """
        if isinstance(specs, dict):
            packed = {key: self.tree(spec, local[key]) for key, spec in specs.items() if not _is_tied(spec)}
            for key, spec in specs.items():
                if _is_tied(spec):
                    packed[key] = marked(self._packer.tied(local[key], packed[spec.tied]), spec, self._shard)
            return {key: packed[key] for key in specs}
        if isinstance(specs, list | tuple):
            return type(specs)(self.tree(*pair) for pair in zip(specs, local, strict=True))
        if isinstance(specs, RepeatedSpec):
            copies = zip(specs.copies, local.copies, strict=True)
            return self._packer.stack([self.tree(*copy) for copy in copies])
        packed = marked(self._pack(specs, local), specs, self._shard)
        for name, shape in stored_shapes(specs).items():
            self._tensors.release(name)
            self._bar.update(self._tensors.nbytes(name, shape))
        return packed

    def _pack(self, spec: WeightSpec, local: Any) -> Tree:
        shard = self._shard
        read = {name: self._tensors.read(name, shape) for name, shape in stored_shapes(spec).items()}
        if isinstance(spec, LinearSpec):
            whole = (_cut(spec, [read[name] for name in names]) for names in (spec.names, spec.bias))
            weights, biases = (linear_parts(spec, local, parts, shard) for parts in whole)
            return self._packer.linear(local, weights, biases, self._dtype)
        if isinstance(spec, EmbeddingSpec):
            table = read[spec.name] if spec.split is None else shard.vocab_rows(read[spec.name], local.vocab)
            return self._packer.embedding(local, table, self._dtype)
        if isinstance(spec, VectorSpec):
            assert local == spec, f"{spec.name} is a vector, and vectors are not divided"
            return self._packer.vector(spec, read[spec.name], self._dtype)
        if isinstance(spec, HeadsSpec):
            heads = shard.slice(spec.heads, local.heads)
            return self._packer.heads(local, spec.cut(read[spec.name])[heads], self._dtype)
        inner = shard.slice(spec.size, local.size)
        gates, ups, downs = (
            [read[name.format(e=expert)] for expert in range(spec.experts)] for name in (spec.gate, spec.up, spec.down)
        )
        gates, ups = ([tensor[inner] for tensor in tensors] for tensors in (gates, ups))
        return self._packer.experts(local, gates, ups, [tensor[:, inner] for tensor in downs], self._dtype)


def _is_tied(spec: Tree) -> bool:
    return isinstance(spec, LinearSpec) and spec.tied is not None


def _multiplied(spec: WeightSpec) -> int:
    """Weights of one spec that a token is multiplied with."""
    if isinstance(spec, LinearSpec):
        return 0 if spec.split == "vocab" else spec.rows * spec.in_features
    if isinstance(spec, ExpertsSpec):
        return 3 * spec.top_k * spec.hidden * spec.size
    return math.prod(spec.shape) if isinstance(spec, HeadsSpec) else 0


def _parts(spec: LinearSpec, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """(tensor, its rows): one a part, or one tensor that holds all parts."""
    if len(names) == 1:
        return [(names[0], spec.rows)]
    return list(zip(names, spec.out_features, strict=True)) if names else []


def _cut(spec: LinearSpec, tensors: list[HostArray]) -> list[HostArray]:
    """The parts of a linear, where one tensor holds them all too."""
    if len(tensors) != 1 or len(spec.out_features) == 1:
        return tensors
    parts, row = [], 0
    for rows in spec.out_features:
        parts.append(tensors[0][row : row + rows])
        row += rows
    return parts


def _leaves(specs: Tree) -> Iterator[WeightSpec]:
    if isinstance(specs, _LEAVES):
        yield specs
        return
    children = specs.values() if isinstance(specs, dict) else specs.copies if isinstance(specs, RepeatedSpec) else specs
    for child in children:
        yield from _leaves(child)


def _check(specs: Tree, tensors: Tensors) -> None:
    """Raise WeightsError that lists what is missing or wrong, all at once."""
    missing, wrong = [], []
    for spec in _leaves(specs):
        for name, shape in stored_shapes(spec).items():
            stored = tensors.stored(name)
            if stored is None:
                missing.append(name)
            elif stored.shape != shape:
                wrong.append(f"{name} is {list(stored.shape)}, not {list(shape)}")
            elif stored.dtype.kind in "iub":
                wrong.append(f"{name} is {stored.dtype.name}: quantized checkpoints cannot be loaded yet")
    if missing:
        raise WeightsError(f"tensors are missing: {_some(missing)}; looked at {tensors.where}")
    if wrong:
        raise WeightsError(f"tensors are not what config.json says: {_some(wrong)}; looked at {tensors.where}")


def _report_unused(specs: Tree, tensors: Tensors) -> None:
    used = {tensors.locate(name) for spec in _leaves(specs) for name in stored_shapes(spec)}
    tied = {tensors.locate(name) for spec in _leaves(specs) if _is_tied(spec) for name in spec.names}  # type: ignore[union-attr]
    unused = [name for name in tensors.names if name not in used | tied and not name.endswith(_UNUSED)]
    if unused:
        logger.warning("%d tensors of the checkpoint are not used: %s", len(unused), _some(unused))


def _some(entries: list[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
