"""Planted bugs that small, contiguous, well-behaved inputs do not show, and those of what programs hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.mutants import ORIGINAL, Mutated, expect, report_on, result
from core.op_mutants import composed
from zif.conformance.calls import SLICED
from zif.contract.arrays import tree_map
from zif.contract.ops import op_specs
from zif.reference.torch.executables import EagerExecutable, EagerExecutables

Mutant = Callable[..., Any]


def suspects(op: str, mutant: Mutant, only: str) -> set[str]:
    report = report_on(Mutated(op, mutant), f"ops/{op}/float32/{only}/mutant.*")
    assert report.results, "nothing was checked"
    return {failure.suspect for failure in report.failures()}


# --- strides -------------------------------------------------------------------------------------------

VIEWS = [name for name, spec in op_specs().items() if set(SLICED) & set(spec.parameters) and spec.profile != "array"]


def as_if_in_one_piece(x: Any) -> Any:
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    return x.as_strided(x.shape, strides, x.storage_offset())


def ignores_strides(op: str) -> Mutant:
    names = op_specs()[op].parameters

    def mutant(*values: Any) -> Any:
        kernel = ORIGINAL[op] if op in ORIGINAL else composed(op)
        named = dict(zip(names, values, strict=True))
        return kernel(**{name: as_if_in_one_piece(v) if name in SLICED else v for name, v in named.items()})

    return mutant


@pytest.mark.parametrize("op", VIEWS)
def test_a_kernel_that_ignores_strides_is_caught(op: str) -> None:
    assert suspects(op, ignores_strides(op), "*") == {f"mutant.{op}"}


# --- sizes ---------------------------------------------------------------------------------------------


def rows_to_512(y: Any) -> Any:
    y = y.clone()
    y[512:] = 0
    return y


def in_bfloat16(x: Any, w: Any, step: Any = None) -> Any:
    """A sum that is kept in sixteen bits between its parts."""
    total = torch.zeros((len(x), w.shape[0]), dtype=torch.bfloat16)
    for start in range(0, x.shape[1], 64):
        total += (x[:, start : start + 64] @ w.arrays["w"][:, start : start + 64].T).to(torch.bfloat16)
    return (total.float() + w.arrays.get("b", 0)).to(x.dtype)


def narrow_squares(x: Any, weight: Any, eps: Any, offset: Any) -> Any:
    total = torch.zeros(x.shape[:-1], dtype=torch.bfloat16)
    for column in x.square().to(torch.bfloat16).unbind(-1):
        total = total + column
    scale = torch.rsqrt(total.float() / x.shape[-1] + eps)[..., None]
    return x * scale * (offset + weight)


def keys_to_2048(q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
    window = min(spec.window or 2048, 2048)
    return ORIGINAL["paged_attention"](q, cache, layer, step, replace(spec, window=window))


def first_ids(op: str) -> Mutant:
    """Sees no id that does not fit in sixteen bits."""
    return expect(op, logits=lambda x: torch.where(torch.arange(x.shape[-1]) < 32768, x, x.amin()))


SCALE: list[tuple[str, str, Mutant]] = [
    ("linear", "rows past 512", result("linear", rows_to_512)),
    ("rms_norm", "rows past 512", result("rms_norm", rows_to_512)),
    ("gated_activation", "rows past 512", result("gated_activation", rows_to_512)),
    ("embedding", "rows past 512", result("embedding", rows_to_512)),
    ("argmax", "rows past 512", result("argmax", rows_to_512)),
    ("paged_attention", "queries past 512", result("paged_attention", rows_to_512)),
    ("paged_attention", "keys past 2,048", keys_to_2048),
    ("embedding", "ids past 32,767", expect("embedding", ids=lambda ids: ids.clamp(max=32767))),
    ("argmax", "ids past 32,767", first_ids("argmax")),
    ("sample", "ids past 32,767", first_ids("sample")),
    ("logprobs", "ids past 32,767", first_ids("logprobs")),
    ("filter_logits", "ids past 32,767", first_ids("filter_logits")),
    ("filter_logits", "k of sixteen bits", expect("filter_logits", top_k=lambda k: k.clamp(max=32767))),
    ("linear", "narrow sums", in_bfloat16),
    ("rms_norm", "narrow sums", narrow_squares),
    ("rope_angles", "positions in bfloat16", expect("rope_angles", positions=lambda p: p.bfloat16().int())),
]  # fmt: skip


@pytest.mark.parametrize(("op", "mutant"), [pytest.param(op, m, id=f"{op}: {name}") for op, name, m in SCALE])
def test_what_small_cases_do_not_show_is_caught_by_larger_ones(op: str, mutant: Mutant) -> None:
    assert suspects(op, mutant, "scale*") == {f"mutant.{op}"}


@pytest.mark.parametrize("op", [*{op: None for op, *_ in SCALE}])
def test_no_honest_kernel_is_caught(op: str) -> None:
    report = report_on(Mutated(), f"ops/{op}/float32/scale*")
    assert report.passed, report.summary()


# --- what programs hold --------------------------------------------------------------------------------

HOARD: list[Any] = []


class Holds(EagerExecutables):
    """What a run does besides is given."""

    def __init__(self, device: Any, wrong: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__(device)
        self._wrong = wrong

    def compile(self, name: str, *arguments: Any, **named: Any) -> EagerExecutable:
        made = super().compile(name, *arguments, **named)
        run = made.run
        made.run = lambda slot, resident: self._wrong(run, slot, resident)  # type: ignore[method-assign]
        return made


def copies(run: Any, slot: Any, resident: Any) -> Any:
    return run(slot, tree_map(lambda leaf: leaf.clone(), resident))


def leaks(run: Any, slot: Any, resident: Any) -> Any:
    HOARD.append(torch.ones(1 << 18))
    return run(slot, resident)


def returns_all(run: Any, slot: Any, resident: Any) -> Any:
    outputs, updates = run(slot, resident)
    return outputs, {**resident, **updates}


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (copies, "a donated resident is not copied"),
        (leaks, "runs leave nothing behind"),
        (returns_all, "updates are what was donated"),
    ],
)
def test_what_programs_hold_is_measured(wrong: Any, law: str) -> None:
    backend = Mutated()
    honest = report_on(backend, f"executables/{law}")
    assert honest.passed, honest.summary()
    backend.executables = Holds(backend.runtime.device, wrong)
    (failure,) = report_on(backend, f"executables/{law}").failures()
    HOARD.clear()
    assert failure.suspect == "executables"


def test_an_exception_in_a_kernel_comes_with_its_place() -> None:
    def breaks(x: Any, weight: Any, eps: Any, offset: Any) -> Any:
        raise RuntimeError("lost the plot")

    failure = report_on(Mutated("rms_norm", breaks), "ops/rms_norm/float32/*/mutant.*").failures()[0]
    assert "lost the plot" in failure.detail
    assert "test_conformance_scale.py:" in failure.detail
    assert failure.suspect == "mutant.rms_norm"
