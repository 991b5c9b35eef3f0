"""What a format knows of each tensor, and the tensors of a checkpoint as a format gives them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from zif.contract.weights import Encoded, HostArray, Shape

if TYPE_CHECKING:
    from zif.weights.checkpoint import Tensors


class Wanted(NamedTuple):
    """A tensor that a checkpoint has to have: of one of ``shapes``, and one of ``dtypes``, or floating if None."""

    name: str
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...] | None = None


class WeightFormat(ABC):
    """How a checkpoint stores its weights. Made of its ``quantization_config``.

    Raises UnsupportedModel, with the field, for a config that means something else than the format reads.
    """

    spare: ClassVar[tuple[str, ...]] = ()
    """Ends of names of tensors that the format has besides, and that decoded weights have no use for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @abstractmethod
    def wanted(self, name: str, shape: Shape, tensors: Tensors) -> Iterable[Wanted]:
        """What is stored of the tensor that models call ``name``, of ``shape``."""

    @abstractmethod
    def encoded(self, name: str, shape: Shape, tensors: Tensors) -> Encoded | None:
        """The tensor as it is stored; None if that is a plain one. What is wanted was found.

        Raises WeightsError for values that cannot be meant.
        """

    @abstractmethod
    def decode(self, encoded: Encoded, dtype: str) -> HostArray:
        """Its values, rounded once to ``dtype``."""


class Plain(WeightFormat):
    """Tensors in a floating dtype, as they are."""

    def __init__(self) -> None:
        super().__init__({})

    def wanted(self, name: str, shape: Shape, tensors: Tensors) -> Iterable[Wanted]:
        return (Wanted(name, (shape,)),)

    def encoded(self, name: str, shape: Shape, tensors: Tensors) -> None:
        return None

    def decode(self, encoded: Encoded, dtype: str) -> HostArray:
        raise AssertionError("plain tensors are not encoded")


class FormatTensors:
    """The tensors of a checkpoint, read by its format: what loading reads, counts and gives back."""

    def __init__(self, tensors: Tensors, form: WeightFormat) -> None:
        self._tensors, self._form = tensors, form
        self.decoded: set[str] = set()
        """Names of those that were read and had to be."""

    def wanted(self, name: str, shape: Shape) -> Iterable[Wanted]:
        """See :meth:`WeightFormat.wanted`."""
        return self._form.wanted(name, shape, self._tensors)

    def nbytes(self, name: str, shape: Shape) -> int:
        """Size in bytes, as stored."""
        return sum(self._tensors.nbytes(each.name) for each in self.wanted(name, shape))

    def read(self, name: str, shape: Shape, dtype: str) -> HostArray:
        """Its values: a view of what is stored, or decoded to ``dtype``."""
        encoded = self.encoded(name, shape)
        if encoded is None:
            return self._tensors.read(name)
        self.decoded.add(name)
        return self._form.decode(encoded, dtype)

    def encoded(self, name: str, shape: Shape) -> Encoded | None:
        """See :meth:`WeightFormat.encoded`."""
        return self._form.encoded(name, shape, self._tensors)

    def release(self, name: str, shape: Shape) -> None:
        """Give back the memory that reading a tensor took."""
        for each in self.wanted(name, shape):
            self._tensors.release(each.name)
