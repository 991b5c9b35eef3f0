"""Arrays and trees of arrays, with no tensor library.

An :class:`Array` is a tensor of whatever framework the backend runs on. A *tree* is an Array, or a
dict, list, tuple or ``@tree`` class of trees. Frameworks that trace (JAX) register the classes in
:data:`TREE_TYPES` with their own tree machinery; nothing else has to know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
Tree = Any
"""An Array, or a dict, list, tuple or ``@tree`` class of trees."""


class Array(Protocol):
    """The portable subset of array operations that torch tensors and JAX arrays share.

    Models and core's device programs use these and the ops, nothing else. Indexing takes slices,
    ``None``, ``...`` and integer Arrays; it never writes (``ops.put`` does).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    def reshape(self, *shape: int) -> Array: ...
    def __getitem__(self, index: Any, /) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __floordiv__(self, other: Any, /) -> Array: ...
    def __mod__(self, other: Any, /) -> Array: ...
    def __neg__(self) -> Array: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and dtype of an array that is yet to be made.

    ``dtype`` is one of numpy's names, or ``bfloat16``, ``float8_e4m3fn``, ``float8_e5m2``.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        size = dtype_bytes(self.dtype)
        for extent in self.shape:
            size *= extent
        return size


_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of ``dtype``; KeyError for a name that zif does not know."""
    return _BYTES[dtype]


class TreeType(NamedTuple):
    """A dataclass whose ``data`` fields are trees and whose ``static`` fields are hashable facts."""

    cls: type
    data: tuple[str, ...]
    static: tuple[str, ...]


TREE_TYPES: dict[type, TreeType] = {}


def tree(*, static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Class decorator: this dataclass is a tree; the fields in ``static`` are not Arrays but hashable."""

    def register(cls: type[T]) -> type[T]:
        names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        unknown = set(static) - set(names)
        assert not unknown, f"{cls.__name__} has no field {sorted(unknown)}"
        TREE_TYPES[cls] = TreeType(cls, tuple(name for name in names if name not in static), static)
        return cls

    return register


def tree_map(fn: Callable[..., Any], first: Tree, *rest: Tree) -> Tree:
    """``fn`` over the leaves of trees of one structure; None is an empty tree."""
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: tree_map(fn, value, *(other[key] for other in rest)) for key, value in first.items()}
    if isinstance(first, tuple | list):
        items = [tree_map(fn, *values) for values in zip(first, *rest, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    kind = TREE_TYPES.get(type(first))
    if kind is None:
        return fn(first, *rest)
    return dataclasses.replace(
        first,
        **{name: tree_map(fn, getattr(first, name), *(getattr(other, name) for other in rest)) for name in kind.data},
    )


def tree_leaves(root: Tree) -> Iterator[Any]:
    """The Arrays of a tree, in an order that its structure gives; a dict's by its keys, in order of name.

    A framework may give a dict back with its keys in another order than it was made with.
    """
    if root is None:
        return
    if isinstance(root, dict):
        children: Any = [root[key] for key in sorted(root)]
    elif isinstance(root, tuple | list):
        children = root
    elif (kind := TREE_TYPES.get(type(root))) is not None:
        children = (getattr(root, name) for name in kind.data)
    else:
        yield root
        return
    for child in children:
        yield from tree_leaves(child)
