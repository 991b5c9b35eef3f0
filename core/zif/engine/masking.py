"""Tokens that are drawn apart from their step: logits are kept until the host has a mask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zif.contract.arrays import ArraySpec, Tree
from zif.engine.forward import Inputs
from zif.engine.programs import Context, ProgramSpec, sampled_specs, sampler_specs
from zif.sampling.sampler import SamplerShape, draw


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep ``rows`` rows of ``logits``, each in a table row's place: the scratch row's, if nobody needs it."""

    rows: int

    def spec(self, context: Context) -> ProgramSpec:
        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            held = context.ops.put(resident["held"], (inputs["rows"],), inputs["logits"])
            return {}, {"held": held}

        specs = sampler_specs(SamplerShape(self.rows), context.table)
        return ProgramSpec(f"hold-{self.rows}", fn, specs, {}, ("held",))


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw tokens from logits that are held, of the table rows ``rows`` [R], among those that ``mask`` leaves."""

    shape: SamplerShape

    def spec(self, context: Context) -> ProgramSpec:
        shape = self.shape

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            rows: Any = inputs["rows"]
            outputs, arrays, adjustments = draw(
                context.ops, shape, resident["held"][rows], rows, resident["table"],
                adjusted_rows=inputs.get("adjusted_rows"), adjustments=resident.get("adjustments"),
                mask=inputs["mask"],
            )  # fmt: skip
            updates = {"table": arrays}
            if shape.adjusted:
                updates["adjustments"] = adjustments
            return outputs, updates

        specs = sampler_specs(shape, context.table)
        del specs["logits"]
        specs["mask"] = ArraySpec((shape.rows, mask_words(context.table.vocab)), "int32")
        donate = ("table", "adjustments") if shape.adjusted else ("table",)
        return ProgramSpec(f"draw-{shape.rows}", fn, specs, sampled_specs(shape), donate, ("held",))


def mask_words(vocab: int) -> int:
    """Words of 32 bits in a mask of so many tokens."""
    return -(-vocab // 32)
