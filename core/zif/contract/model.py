"""What a model definition is: plain functions over the ops, and the tables that describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from zif.contract.arrays import Array, Tree
from zif.contract.attention import AttentionSpec
from zif.contract.cache import CacheGroup
from zif.contract.ops import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A further input of a model's step: ``per`` token, sequence or step, ``shape`` each."""

    name: str
    dtype: str
    per: Literal["token", "sequence", "step"]
    shape: tuple[int, ...] = ()


class Model(Protocol):
    """One checkpoint's architecture, made from its ``config.json``.

    ``layers`` runs layers [start, stop), so that a pipeline stage is a slice of the same model.
    ``cache`` is a dict of trees, a cache group each; ``layers`` returns it updated.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
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

    def head(self, ops: Ops, w: Tree, rows: Array) -> Array:
        """Logits [R, vocab] float32 of hidden states [R, hidden]."""
        ...


class ModelFamily(Protocol):
    """A module of model definitions: builds a :class:`Model` from a Hugging Face config."""

    def build(self, config: Mapping[str, Any]) -> Model:
        """The model of a ``config.json``.

        Where sequences are served that are shorter or longer than the checkpoint's own limit, core adds
        ``served_context_length``. Raises UnsupportedModel for a feature of the config that it does not have.
        """
        ...
