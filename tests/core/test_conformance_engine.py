"""Planted bugs that no single op shows, or that show only between steps: the engine's laws catch them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.mutants import ORIGINAL, Mutated, report_on
from core.op_mutants import reads_beyond_the_length
from zif.conformance.answers import Answer, compare
from zif.conformance.metamorphic import TRUE
from zif.conformance.tiny import TINY, Tiny
from zif.messages import TokenLogprob
from zif.reference.torch import TorchPacker
from zif.reference.torch.executables import EagerExecutables


def suspects(backend: Any, law: str) -> set[str]:
    report = report_on(backend, f"engine/{law}")
    assert report.results, "there is no such law"
    return {failure.suspect for failure in report.failures()}


class KeepsFirstPages(EagerExecutables):
    """A graph with pages captured in it: those that are staged for later runs do not reach it."""

    of = ""
    """What the names of programs that do so begin with."""

    def compile(self, name: str, *arguments: Any, **named: Any) -> Any:
        executable: Any = super().compile(name, *arguments, **named)
        if not name.startswith(self.of):
            return executable
        stage, first = executable.stage, {}

        def stage_once(inputs: Any) -> Any:
            slot = stage(inputs)
            for key in slot.inputs:
                if key.startswith("page"):
                    slot.inputs[key].copy_(first.setdefault(key, slot.inputs[key].clone()))
            return slot

        executable.stage = stage_once
        return executable


def mixes_the_batch(x: Any, weight: Any, eps: Any, offset: Any) -> Any:
    """A norm whose scale depends, slightly, on the other rows."""
    y = ORIGINAL["rms_norm"](x, weight, eps, offset)
    return y * (1 + 0.05 * torch.tanh(x.float().mean())).to(y.dtype)


def forgets_the_past_of_a_chunk(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """A prefill kernel that takes every prompt to begin in its own step."""
    starts = step.query_starts
    new = starts[1:] - starts[:-1]
    prefill = new > 1
    shifted = torch.where(prefill, new, step.kv_lens)
    return ORIGINAL["paged_attention"](q, cache, layer, replace(step, kv_lens=shifted), spec)


def draws_by_row(logits: Any, temperature: Any, seed: Any, position: Any) -> Any:
    """Random bits that depend on where in the batch a request is."""
    row = torch.arange(len(seed), dtype=seed.dtype)
    return ORIGINAL["sample"](logits, temperature, seed + row[:, None], position)


def contiguous(k: Any, v: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    """Writes to the page after the last one, instead of the one that was assigned."""
    table = step.pages[spec.group]
    width = torch.arange(table.shape[1], dtype=table.dtype)
    astray = torch.where(table > 0, (table[:, :1] + width) % cache[spec.group]["k"].shape[1], table)
    return ORIGINAL["kv_write"](k, v, cache, layer, replace(step, pages={spec.group: astray}), spec)


@pytest.mark.parametrize(
    ("op", "mutant", "law"),
    [
        ("rms_norm", mixes_the_batch, "together = alone"),
        ("rms_norm", mixes_the_batch, "chunked prefill = whole"),
        ("paged_attention", forgets_the_past_of_a_chunk, "chunked prefill = whole"),
        ("paged_attention", forgets_the_past_of_a_chunk, "cache hit = cold"),
        ("paged_attention", reads_beyond_the_length, "NaN in unused pages"),
        ("sample", draws_by_row, "seeded draws, together = alone"),
        ("kv_write", contiguous, "other pages"),
    ],
)
def test_a_planted_bug_breaks_a_law(op: str, mutant: Any, law: str) -> None:
    assert suspects(Mutated(op, mutant), law) == {f"mutant.{op}"}


def test_a_graph_that_does_not_see_its_inputs_breaks_a_law() -> None:
    backend = Mutated()
    backend.executables = KeepsFirstPages(backend.runtime.device)
    assert suspects(backend, "compiled = eager") == {"executables"}


def test_a_bug_of_programs_that_draw_breaks_a_law() -> None:
    backend = Mutated()
    backend.executables = KeepsFirstPages(backend.runtime.device)
    backend.executables.of = "decode-"
    assert suspects(backend, "drawn in the step = after it") == {"executables"}


@pytest.mark.parametrize(
    "law",
    ["chunked prefill = whole", "other pages", "seeded draws, together = alone", "drawn in the step = after it"],
)
def test_without_a_bug_no_law_is_broken(law: str) -> None:
    assert not suspects(Mutated(), law)


def one_base(positions: Any, rope: Any) -> Any:
    """Frequencies of its own, whatever the specification says."""
    own = tuple(1e4 ** (-2 * i / rope.rotary_dim) for i in range(rope.rotary_dim // 2))
    return ORIGINAL["rope_angles"](positions, replace(rope, inv_freq=own))


class TwoAndThree(TorchPacker):
    """Swaps the second and the third of three parts: k and v."""

    def linear(self, spec: Any, weights: Any, biases: Any, dtype: str) -> Any:
        if len(weights) == 3 and weights[1].shape == weights[2].shape:
            weights = [weights[0], weights[2], weights[1]]
        return super().linear(spec, weights, biases, dtype)


def no_correction(logits: Any, spec: Any, bias: Any = None) -> Any:
    return ORIGINAL["route"](logits, spec, None if bias is None else 0 * bias)


@pytest.mark.parametrize(
    ("op", "mutant", "model"),
    [
        ("rope_angles", one_base, "norms of q and k"),
        ("rope_angles", one_base, "scaled rope, biases"),
        ("rope_angles", one_base, "two rope bases"),
        ("route", no_correction, "experts"),
        ("head_linear", lambda x, w: ORIGINAL["head_linear"](x, w).flip(1), "latents"),
    ],
)
def test_what_a_backend_does_alike_everywhere_is_seen_by_the_specifications(op: str, mutant: Any, model: str) -> None:
    assert suspects(Mutated(op, mutant), f"{TRUE}/{model}") == {f"mutant.{op}"}


def test_a_packer_that_swaps_parts_of_three_is_named() -> None:
    backend = Mutated()
    backend.packer = TwoAndThree(backend.runtime)
    assert suspects(backend, f"{TRUE}/full attention") == {"packer"}


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_the_reference_does_what_the_specifications_say(tiny: Tiny) -> None:
    assert not suspects(Mutated(), f"{TRUE}/{tiny.name}")


def answer(tokens: list[int], gap: float = 1.0, at: float = -1.0, prompt: tuple[float, ...] = ()) -> Answer:
    scored = [TokenLogprob(token, at, 1, [(token, at), (0, at - gap)]) for token in tokens]
    return Answer(tokens=tokens, logprobs=scored, prompt=list(prompt))


def test_runs_are_compared_until_rounding_could_decide() -> None:
    one = [answer([1, 2, 3])]
    assert compare(one, [answer([1, 2, 3])], 1e-3) is None
    assert "output 1: token 2 and 9" in str(compare(one, [answer([1, 9, 3])], 1e-3))
    assert compare([answer([1, 2, 3], gap=1e-4)], [answer([1, 9, 4])], 1e-3) is None
    assert "token 2 and 9" in str(compare([answer([1, 2, 3], gap=1e-4)], [answer([1, 9, 4])], 1e-3, drawn=True))
    assert "log-probability -1 and -1.1" in str(compare(one, [answer([1, 2, 3], at=-1.1)], 1e-3))
    assert "log-probability -1 and nan" in str(compare(one, [answer([1, 2, 3], at=float("nan"))], 1e-3))
    assert compare(one, [Answer(tokens=[1, 2, 3])], 1e-3) is None
    assert "output 1: token 2 and 9" in str(compare(one, [Answer(tokens=[1, 9, 3])], 1e-3))
    assert "3 tokens and 2" in str(compare(one, [answer([1, 2])], 1e-3))
    assert "token 2 is off by 1" in str(compare([answer([], prompt=(0.0, 1.0))], [answer([], prompt=(0.0, 2.0))], 1e-3))
