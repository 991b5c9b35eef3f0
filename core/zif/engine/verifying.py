"""Several tokens a step: drafts that a step brings, and how many of them are accepted, on the device.

A decode brings its last token and drafts of what follows. The sampler draws a token for each of them, from the very
numbers that it would draw from if they came one by one; a draft is accepted where it is the token that was drawn, and
all before it are. So the tokens are those that come without drafts, whatever the drafts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zif.contract.arrays import ArraySpec, Tree
from zif.contract.step import StepShape
from zif.engine.forward import Inputs, drafted
from zif.engine.launch import Launch
from zif.engine.logits import LogitsPlan
from zif.engine.padding import padded
from zif.engine.programs import Context, ProgramSpec, sampled_specs, sampler_specs
from zif.engine.table import ADMITTED, SCRATCH
from zif.sampling.sampler import SamplerShape, draw
from zif.scheduler.batch import Batch


class Drafter(Protocol):
    """Who proposes tokens, on the device."""

    @property
    def most(self) -> int:
        """Drafts that a row is given, at most."""
        ...

    def launches(self, batch: Batch, shape: StepShape) -> Sequence[Launch]:
        """What is launched behind a step: programs that write ``drafts`` of its rows into the request table.

        Rows that get none keep theirs: wrong drafts cost time, and change nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verify:
    """Draw tokens as ``Sample`` does, and accept drafts, of ``seqs`` sequences up to ``drafts`` each.

    Each sequence has one row of logits for its last token, and one for each draft, one after the other. Puts out
    ``tokens`` [R], and ``accepted`` [seqs]: of a sequence whose rows begin at f, tokens f to f + accepted come to
    stay.
    """

    shape: SamplerShape
    seqs: int
    drafts: int

    def spec(self, context: Context) -> ProgramSpec:
        ops, shape = context.ops, self.shape

        def fn(inputs: Inputs, resident: dict[str, Tree]) -> tuple[Inputs, dict[str, Tree]]:
            rows, arrays = inputs["rows"], dict(resident["table"])
            # the settings of each row of logits; its own position is so many tokens before the step's last one
            own = {name: arrays[name][rows] for name in (*ADMITTED, "last_token")}
            own["kv_len"] = own["kv_len"] - inputs["behind"]
            outputs, _, adjustments = draw(
                ops, shape, inputs["logits"], ops.arange(shape.rows, rows), own,
                adjusted_rows=inputs.get("adjusted_rows"), adjustments=resident.get("adjustments"),
                targets=inputs.get("targets"),
            )  # fmt: skip
            right = drafted(ops, inputs["following"], rows, arrays["drafts"]) == outputs["tokens"]
            accepted = self._accepted(ops, right, inputs["firsts"], inputs["drafts"])
            last = outputs["tokens"][inputs["firsts"] + accepted]
            where = (inputs["seq_rows"],)
            lengths = arrays["kv_len"][inputs["seq_rows"]] - inputs["drafts"] + accepted
            arrays["kv_len"] = ops.put(arrays["kv_len"], where, lengths)
            arrays["last_token"] = ops.put(arrays["last_token"], where, last)
            arrays["accepted"] = ops.put(arrays["accepted"], where, accepted)
            updates = {"table": arrays}
            if shape.adjusted:
                updates["adjustments"] = adjustments
            return outputs | {"accepted": accepted}, updates

        specs = sampler_specs(shape, context.table)
        specs |= {name: ArraySpec((shape.rows,), "int32") for name in ("behind", "following")}
        specs |= {name: ArraySpec((self.seqs,), "int32") for name in ("firsts", "drafts", "seq_rows")}
        outputs = sampled_specs(shape) | {"accepted": ArraySpec((self.seqs,), "int32")}
        donate = ("table", "adjustments") if shape.adjusted else ("table",)
        return ProgramSpec(f"verify-{shape.rows}x{self.seqs}", fn, specs, outputs, donate)

    def _accepted(self, ops: Any, right: Any, firsts: Any, drafts: Any) -> Any:
        """[seqs] int32: how many of the ``drafts`` of each sequence are right, up to the first wrong one."""
        alive, accepted = drafts >= 0, drafts * 0
        for number in range(self.drafts):
            there = number < drafts
            alive = alive & there & right[ops.where(there, firsts + number, firsts)]
            accepted = accepted + ops.cast(alive, "int32")
        return accepted


def verify_inputs(plan: LogitsPlan, program: Verify) -> dict[str, np.ndarray[Any, Any]]:
    """What ``program`` is staged beside what a sampler is."""
    runs, rows, seqs = plan.runs, program.shape.rows, program.seqs
    assert runs is not None
    within = np.arange(int(runs.sum()), dtype=np.int32) - np.repeat(np.cumsum(runs) - runs, runs).astype(np.int32)
    behind, following = np.zeros(rows, np.int32), np.full(rows, -1, np.int32)
    places = np.repeat(plan.sampled, runs) + within
    behind[places] = np.repeat(runs, runs) - 1 - within
    following[places] = np.where(behind[places] > 0, -2 - within, -1)
    return {
        "behind": behind,
        "following": following,
        "firsts": padded(plan.sampled, seqs, 0),
        "drafts": padded(runs - 1, seqs, 0),
        "seq_rows": padded(plan.rows[plan.sampled], seqs, SCRATCH),
    }
