"""What a model definition is: plain functions over the ops, and the tables that describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from zif.contract.arrays import Array, Tree
from zif.contract.attention import AttentionSpec
from zif.contract.cache import CacheGroup
from zif.contract.errors import UnsupportedModel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step

_MOST_RANKS = 64
"""Of a message, not of anything that works."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A further input of a model's step: ``per`` token, sequence or step, ``shape`` each.

    Core stages it where :attr:`zif.contract.step.Step.inputs` has it: padding, tokens that were drawn and what a
    request does not bring have the value ``neutral``. Prefixes are shared between requests that bring the same.
    """

    name: str
    dtype: str
    per: Literal["token", "sequence", "step"]
    shape: tuple[int, ...] = ()
    neutral: float = 0


class Model(Protocol):
    """One checkpoint's architecture, made from its ``config.json``.

    ``layers`` runs layers [start, stop), so that a pipeline stage is a slice of the same model.
    ``cache`` is a dict of trees, a cache group each; ``layers`` returns it updated.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def cache_groups(self) -> Sequence[CacheGroup]: ...
    @property
    def attention_specs(self) -> Sequence[AttentionSpec]: ...
    @property
    def inputs(self) -> Sequence[InputSpec]: ...

    def local(self, size: int) -> Model:
        """The model as each of ``size`` ranks runs it (:mod:`zif.contract.comm`).

        Its attention specs, cache groups and requests are a rank's, and so are the sizes in ``weights`` of what
        is split by columns or rows; the vocabulary is whole, core divides it. :func:`local_attention` and
        :func:`divided` do the arithmetic. Raises UnsupportedModel for sizes that do not divide.
        """
        raise UnsupportedModel(f"{type(self).__name__} has no tensor parallelism: leave --tp-size at 1")

    def weights(self) -> dict[str, Tree]:
        """The tree of weight specs (:mod:`zif.contract.weights`)."""
        ...

    def requests(self, dtype: str) -> Sequence[OpRequest]:
        """Ops the model calls whose kernels depend on its sizes, linears and attention aside:
        core derives those from ``weights`` and ``attention_specs``.
        """
        ...

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        """[T, hidden]"""
        ...

    def layers(
        self, ops: Ops, w: Tree, x: Array, cache: Tree, step: Step, start: int = 0, stop: int | None = None
    ) -> tuple[Array, Tree]: ...

    def head(self, ops: Ops, w: Tree, rows: Array, step: Step) -> Array:
        """Logits [R, vocab] float32 of hidden states [R, hidden], those of the tokens ``step.logits_at``."""
        ...


def unsafe_dtypes(model: Model) -> Mapping[str, str]:
    """Dtypes that the model's activations do not bear, each with the reason.

    A model says so by an attribute of this name; one without it bears all.
    """
    unsafe: Mapping[str, str] = getattr(model, "unsafe_dtypes", {})
    return unsafe


class ModelFamily(Protocol):
    """A module of model definitions: builds a :class:`Model` from a Hugging Face config."""

    def build(self, config: Mapping[str, Any]) -> Model:
        """The model of a ``config.json``.

        Where sequences are served that are shorter or longer than the checkpoint's own limit, core adds
        ``served_context_length``. Raises UnsupportedModel for a feature of the config that it does not have.
        """
        ...


def local_attention(spec: AttentionSpec, size: int) -> AttentionSpec:
    """``spec`` of one of ``size`` ranks: a share of the query heads, and the key-value heads that these read.

    Where there are fewer key-value heads than ranks, several ranks keep the same one. Raises UnsupportedModel.
    """
    q_heads = divided(spec.q_heads, size, "attention heads")
    if size % spec.kv_heads == 0:
        return replace(spec, q_heads=q_heads, kv_heads=1)
    return replace(spec, q_heads=q_heads, kv_heads=divided(spec.kv_heads, size, "key-value heads"))


def divided(whole: int, size: int, what: str) -> int:
    """``whole`` / ``size``. Raises UnsupportedModel, with the sizes that would do, where that leaves a rest."""
    if whole % size:
        fitting = ", ".join(str(n) for n in range(1, min(whole, _MOST_RANKS) + 1) if whole % n == 0)
        raise UnsupportedModel(f"--tp-size {size}: the model's {whole} {what} are not divided by it, but by {fitting}")
    return whole // size
