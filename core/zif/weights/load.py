"""From a checkpoint's tensors to a model's packed weights, a tensor at a time."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from zif.contract.arrays import Tree, dtype_bytes
from zif.contract.errors import WeightsError
from zif.contract.weights import ALONE, Encoded, HostArray, PackedWeight, Shape, Shard, WeightSpec, named_specs, shares
from zif.weights.dummy import DummyTensors, Shapes
from zif.weights.formats import FormatTensors
from zif.weights.leftover import sort_leftovers

if TYPE_CHECKING:
    from zif.contract.model import Model
    from zif.contract.packer import Packer
    from zif.weights.checkpoint import Checkpoint

LoadFormat = Literal["auto", "dummy", "shapes"]
_SHOWN = 5  # names in a message; the rest are counted

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
    or not floating, or if some are left over that would change what is computed (:mod:`zif.weights.leftover`).
    """
    from tqdm import tqdm

    specs = model.weights()
    tensors: FormatTensors | DummyTensors | Shapes
    if load_format == "auto":
        tensors = FormatTensors(checkpoint.tensors, checkpoint.format)
        _check(specs, tensors, checkpoint)
        _check_unused(specs, tensors, checkpoint)
    else:
        tensors = DummyTensors(dtype) if load_format == "dummy" else Shapes(dtype)
    total = sum(tensors.nbytes(name, shape) for name, shape in stored(specs).items())
    # disable=None: no bar where standard error is not a terminal
    disable = None if progress else True
    with tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=disable) as bar:
        packed = _Loading(packer, dtype, shard, tensors, bar).tree(specs, local_weights(model, shard.size))
    if isinstance(tensors, FormatTensors) and tensors.decoded:
        method = checkpoint.format.config["quant_method"]
        logger.info(
            "%d tensors were decoded from %s to %s, for kernels that read no other", len(tensors.decoded), method, dtype
        )
    assert isinstance(packed, dict)
    return packed


def weight_bytes(model: Model, dtype: str, ranks: int = 1) -> int:
    """Bytes of a rank's part of ``model``'s weights in ``dtype``, as specs tell it: packed, they may be others."""
    return sum(math.prod(shape) for shape in stored(local_weights(model, ranks)).values()) * dtype_bytes(dtype)


def parameters_per_token(model: Model) -> int:
    """Weights that every token of a step is multiplied with: not the head's, which are for the rows of logits."""
    return sum(spec.per_token() for _, spec in named_specs(model.weights()))


def local_weights(model: Model, size: int) -> dict[str, Tree]:
    """The spec tree of a rank, in the shape of ``model.weights()``. Raises UnsupportedModel."""
    if size == 1:
        return model.weights()
    local: dict[str, Tree] = shares(model.local(size).weights(), size)
    return local


def stored(specs: Tree) -> dict[str, Shape]:
    """The tensors that a tree of specs is made of, as models name them, with their shapes in a checkpoint."""
    return {name: shape for _, spec in named_specs(specs) for name, shape in spec.stored().items()}


class _Loading:
    """One load: packs specs, gives back what it has read for them, and counts it."""

    def __init__(
        self, packer: Packer, dtype: str, shard: Shard, tensors: FormatTensors | DummyTensors | Shapes, bar: Any
    ) -> None:
        self.packer, self.dtype, self.shard = packer, dtype, shard
        self._tensors, self._bar = tensors, bar
        self._held: dict[str, Shape] = {}
        self._counted: set[str] = set()

    def read(self, name: str, shape: Shape) -> HostArray:
        """See :class:`zif.contract.weights.Loading`."""
        self._held[name] = shape
        return self._tensors.read(name, shape, self.dtype)

    def encoded(self, name: str, shape: Shape) -> Encoded | None:
        """See :class:`zif.contract.weights.Loading`."""
        self._held[name] = shape
        return self._tensors.encoded(name, shape)

    def tree(self, specs: Tree, local: Tree) -> Tree:
        """Packed weights in the place of specs; those that are tied after what they are tied to."""
        if isinstance(specs, WeightSpec):
            return self._weight(specs, local, {})
        if isinstance(specs, dict):
            packed: dict[str, Tree] = {}
            for key in sorted(specs, key=lambda key: _tied(specs[key])):
                if _tied(specs[key]):
                    packed[key] = self._weight(specs[key], local[key], packed)
                else:
                    packed[key] = self.tree(specs[key], local[key])
            return {key: packed[key] for key in specs}
        return type(specs)(self.tree(*pair) for pair in zip(specs, local, strict=True))

    def _weight(self, spec: WeightSpec, local: WeightSpec, beside: dict[str, Tree]) -> Tree:
        packed = spec.pack(self, local, beside)
        for name, shape in self._held.items():
            self._tensors.release(name, shape)
            if name not in self._counted:
                self._bar.update(self._tensors.nbytes(name, shape))
        self._counted |= self._held.keys()
        self._held.clear()
        if self.shard.size > 1 and isinstance(packed, PackedWeight):
            return replace(packed, split=spec.split)
        return packed


def _tied(spec: Tree) -> bool:
    return isinstance(spec, WeightSpec) and spec.tied is not None


def _check(specs: Tree, tensors: FormatTensors, checkpoint: Checkpoint) -> None:
    """Raise WeightsError that lists what is missing or wrong, all at once."""
    missing, wrong, where = [], [], checkpoint.tensors.where
    for each in (each for name, shape in stored(specs).items() for each in tensors.wanted(name, shape)):
        found = checkpoint.tensors.stored(each.name)
        if found is None:
            missing.append(each.name)
        elif found.shape not in each.shapes:
            shapes = " or ".join(str(list(shape)) for shape in each.shapes)
            wrong.append(f"{each.name} is {list(found.shape)}, not {shapes}")
        elif each.dtypes is None and (found.dtype.kind in "iub" or found.dtype.itemsize == 1):
            wrong.append(f"{each.name} is {found.dtype.name}: quantized checkpoints cannot be loaded yet")
        elif each.dtypes is not None and found.dtype.name not in each.dtypes:
            wrong.append(f"{each.name} is {found.dtype.name}, not {' or '.join(each.dtypes)}")
    if missing:
        raise WeightsError(f"tensors are missing: {_some(missing)}; looked at {where}")
    if wrong:
        raise WeightsError(f"tensors are not what config.json says: {_some(wrong)}; looked at {where}")


def _check_unused(specs: Tree, read: FormatTensors, checkpoint: Checkpoint) -> None:
    """Log the tensors that are not used; raise WeightsError if leaving one out would change what is computed."""
    tensors, spare = checkpoint.tensors, checkpoint.format.spare
    repeated = [name for _, spec in named_specs(specs) for name in spec.repeated_names()]
    wanted = (each.name for name, shape in stored(specs).items() for each in read.wanted(name, shape))
    used = {tensors.locate(name) for name in (*wanted, *repeated)}
    names = [*repeated, *(name for name in tensors.names if name in used)]
    left = [name for name in tensors.names if name not in used]
    unused, refused = sort_leftovers([name for name in left if not name.endswith(spare)], names, checkpoint.config)
    unused += [name for name in left if name.endswith(spare)]
    if refused:
        raise WeightsError(
            f"the checkpoint has {len(refused)} tensors that config.json gives no use for, and that would change what "
            f"its layers compute: {_some(refused)}; looked at {tensors.where}"
        )
    if unused:
        logger.warning("%d tensors of the checkpoint are not used: %s", len(unused), _some(unused))


def _some(entries: list[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
