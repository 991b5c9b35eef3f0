"""The suite is only worth what it catches: planted bugs, each of which must fail, in the right place."""

from __future__ import annotations

from typing import Any

import pytest

from core.mutants import REFERENCE, Mutated, report_on
from core.op_mutants import MUTANTS, OPS, draws
from zif.contract.kernels import kernel
from zif.contract.ops import op_specs
from zif.reference.torch import TorchPacker, TorchReference


@pytest.mark.parametrize(("op", "mutant"), MUTANTS)
def test_a_planted_bug_is_caught_where_it_is(op: str, mutant: Any) -> None:
    report = report_on(Mutated(op, mutant), f"ops/{op}/*/mutant.*")
    assert report.failures(), f"survived: {len(report.results)} checks of {op} passed"
    assert {failure.suspect for failure in report.failures()} == {f"mutant.{op}"}
    assert not report.passed


@pytest.mark.parametrize("op", [*OPS])
def test_without_a_bug_nothing_fails(op: str) -> None:
    report = report_on(Mutated(), f"ops/{op}")
    assert report.passed, report.summary()


def test_draws_from_the_right_words_are_no_bug() -> None:
    report = report_on(Mutated("sample", draws()), "ops/sample")
    assert report.passed, report.summary()


def test_every_op_with_a_meaning_of_its_own_has_a_mutant() -> None:
    composites = {name for name, spec in op_specs().items() if spec.composite is not None}
    too_simple = {"arange", "concat", "add", "latent_write"}
    assert op_specs().keys() - OPS.keys() - composites <= too_simple


def test_a_missing_kernel_fails() -> None:
    class Lacking(TorchReference):
        def kernels(self) -> Any:
            return (k for k in super().kernels() if k.op != "rms_norm")

    backend = Mutated()
    backend.kernels = lambda: (Lacking(),)  # type: ignore[method-assign]
    (failure, *_) = report_on(backend, "ops/rms_norm").failures()
    assert "no kernel serves rms_norm" in failure.detail


def test_a_kernel_that_refuses_is_not_run_but_one_that_serves_is_though_it_does_not_win() -> None:
    class Second(TorchReference):
        provider = "second"
        level = 1

        @kernel("rms_norm", when=lambda _, request: None if request["size"] == 16 else "sizes other than 16")
        def rms_norm(self, x: Any, weight: Any, eps: Any, offset: Any = 0.0) -> Any:
            return x * 0

    backend = Mutated()
    backend.kernels = lambda: (Second(), REFERENCE)  # type: ignore[method-assign]
    failures = report_on(backend, "ops/rms_norm").failures()
    assert {failure.case.split("/")[1] for failure in failures} == {"(1, 16)"}
    backend.kernels = lambda: (_Renamed(), Second(), REFERENCE)  # type: ignore[method-assign]
    assert any("second.rms_norm" in failure.name for failure in report_on(backend, "ops/rms_norm").failures())


class _Renamed(TorchReference):
    provider = "first"


# --- packers -------------------------------------------------------------------------------------------


class SwappedParts(TorchPacker):
    def linear(self, spec: Any, weights: Any, biases: Any, dtype: str) -> Any:
        return super().linear(spec, weights[::-1], biases, dtype)


class FirstBiasAlone(TorchPacker):
    def linear(self, spec: Any, weights: Any, biases: Any, dtype: str) -> Any:
        packed = super().linear(spec, weights, biases, dtype)
        if "b" in packed.arrays:
            packed.arrays["b"][len(biases[0]) :] = 0.0
        return packed


@pytest.mark.parametrize("packer", [SwappedParts, FirstBiasAlone])
def test_a_packer_that_mistakes_its_parts_is_caught(packer: Any) -> None:
    backend = Mutated()
    backend.packer = packer(backend.runtime)
    assert report_on(backend, "ops/linear").failures()
