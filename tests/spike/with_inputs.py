"""A model family with further inputs: vectors for tokens of the prompt, and a token that a sequence wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zif.contract.arrays import Array, Tree
from zif.contract.model import InputSpec
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif_models.config import Config
from zif_models.llama import DEFAULTS, Llama, build_as


def build(config: Mapping[str, Any]) -> Llama:
    return build_as(WithInputs, Config(config, DEFAULTS))


@dataclass(frozen=True, kw_only=True)
class WithInputs(Llama):
    """Llama, with ``extra`` [hidden] added to a token's embedding, and ``boost`` to the logit of ``wanted``."""

    @property
    def inputs(self) -> Sequence[InputSpec]:
        return (
            InputSpec("extra", "float32", "token", (self.hidden_size,)),
            InputSpec("wanted", "int32", "sequence", neutral=-1),
            InputSpec("boost", "float32", "step", neutral=1000),
        )

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        return super().embed(ops, w, step) + step.inputs["extra"]

    def head(self, ops: Ops, w: Tree, rows: Array, step: Step) -> Array:
        logits = super().head(ops, w, rows, step)
        wanted = step.inputs["wanted"][step.seqs[step.logits_at]]
        boosted = ops.arange(self.vocab_size, wanted)[None] == wanted[:, None]
        return ops.where(boosted, logits + step.inputs["boost"], logits)
