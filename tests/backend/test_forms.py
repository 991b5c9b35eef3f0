"""Forms between kernels: norms that quantise, an all-reduce in a norm, and kernels in front that take neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from backend.ranks import on_ranks
from spike.frameworks import TORCH
from spike.loop import Loop
from spike.shared import COUNT, DEEPSEEK, WORK, expected
from zif.contract.binding import Bound, bind
from zif.contract.comm import PARTIAL, Communicator, Partial
from zif.contract.errors import PluginError
from zif.contract.form import Form, GivenForm
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest
from zif.contract.weights import PackedWeight
from zif.engine.collectives import bind_ranks
from zif.reference.torch import TorchReference

REFERENCE = TorchReference()
HIDDEN = 32


@dataclass(frozen=True)
class Quantised:
    """``q`` [T, size] int8, and ``scale`` [T, 1] float32."""

    q: torch.Tensor
    scale: torch.Tensor


INT8 = Form("int8", Quantised)


class NormQuant(KernelSet):
    """A norm that quantises for the linears behind it, which read int8."""

    provider = "int8"
    level = 1

    @kernel("add_norm", makes=True, shared=True, gives=(INT8,))
    def add_norm(self, request: OpRequest, ops: Any, form: Form | None) -> Any:
        def run(
            x: Any, residual: Any, weight: Any, eps: float, offset: float = 0.0, consumers: Any = (), step: Any = None
        ) -> Any:
            total = x + residual
            y = REFERENCE.rms_norm(total, weight, eps, offset)
            if form is not INT8 or not consumers:
                return y, total
            scale = y.abs().amax(-1, keepdim=True) / 127
            return Quantised((y / scale).round().to(torch.int8), scale), total

        return run

    @kernel("linear", takes={"x": (INT8,)})
    def linear(self, x: Any, w: PackedWeight, step: Any = None) -> Any:
        if isinstance(x, Quantised):
            return x.q.float() @ w.arrays["w"].T * x.scale
        return x @ w.arrays["w"].T


class Adapters(KernelSet):
    """Linears of a format of their own, which know no int8."""

    provider = "adapters"
    level = 1

    @kernel("linear", when=lambda _, r: None if r["format"] == "adapted" else f"adapts no {r['format']}")
    def linear(self, x: torch.Tensor, w: PackedWeight, step: Any = None) -> torch.Tensor:
        return x @ w.arrays["w"].T


class Gated(KernelSet):
    """A gated linear in front of the composite, which knows no int8."""

    provider = "gated"
    level = 1

    @kernel("gated_linear")
    def gated_linear(self, x: torch.Tensor, w: PackedWeight, kind: str, step: Any = None) -> torch.Tensor:
        return REFERENCE.gated_activation(x @ w.arrays["w"].T, kind)


def weight(rows: int, form: str = "dense") -> PackedWeight:
    return PackedWeight({"w": torch.randn(rows, HIDDEN) * HIDDEN**-0.5}, form, (rows, HIDDEN))


def linears(*weights: PackedWeight, gated: PackedWeight | None = None) -> list[OpRequest]:
    facts = {"in_features": HIDDEN, "bias": False}
    wanted = [
        OpRequest.of("linear", "float32", key=w.dispatch_key, out_features=w.shape[0], format=w.format, **facts)
        for w in weights
    ]
    if gated is not None:
        more = facts | {"out_features": gated.shape[0], "format": gated.format, "kind": "silu"}
        wanted.append(OpRequest.of("gated_linear", "float32", key=gated.dispatch_key, **more))
    return [OpRequest.of("add_norm", "float32", size=HIDDEN), OpRequest.of("rms_norm", "float32", size=HIDDEN), *wanted]


def given(bound: Bound) -> GivenForm:
    (one,) = bound.forms
    return one


def test_a_norm_hands_int8_to_the_linears_and_to_the_composite_that_passes_it_on() -> None:
    plain, gated = weight(24), weight(48)
    ops = (bound := bind(linears(plain, gated=gated), [NormQuant(), REFERENCE])).ops
    assert given(bound) == GivenForm("int8.add_norm", INT8, "all take it")
    x, residual, norm = torch.randn(3, HIDDEN), torch.randn(3, HIDDEN), torch.randn(HIDDEN)
    exact, total = ops.add_norm(x, residual, norm, 1e-6)
    quantised, same = ops.add_norm(x, residual, norm, 1e-6, consumers=(plain, gated))
    assert isinstance(quantised, Quantised) and torch.equal(total, same)
    rounded = quantised.q.float() * quantised.scale
    torch.testing.assert_close(rounded, exact, atol=float(quantised.scale.max()), rtol=0)
    torch.testing.assert_close(ops.linear(quantised, plain), ops.linear(rounded, plain))
    torch.testing.assert_close(ops.gated_linear(quantised, gated, "silu"), ops.gated_linear(rounded, gated, "silu"))


@pytest.mark.parametrize(
    ("front", "weights", "reason"),
    [
        (
            Adapters(),
            {"plain": "dense", "other": "adapted"},
            "int8 is not taken by adapters.linear, composite.gated_linear",
        ),
        (Gated(), {"plain": "dense"}, "int8 is not taken by gated.gated_linear"),
    ],
)
def test_a_kernel_in_front_that_does_not_take_a_form_makes_the_result_plain(
    front: KernelSet, weights: dict[str, str], reason: str
) -> None:
    made, gated = [weight(24, form) for form in weights.values()], weight(48)
    bound = bind(linears(*made, gated=gated), [front, NormQuant(), REFERENCE])
    assert given(bound) == GivenForm("int8.add_norm", None, reason)
    args = torch.randn(3, HIDDEN), torch.randn(3, HIDDEN), torch.randn(HIDDEN), 1e-6
    result, _ = bound.ops.add_norm(*args, consumers=(*made, gated))
    assert isinstance(result, torch.Tensor)
    assert bound.ops.gated_linear(result, gated, "silu").shape == (3, 24)


def test_a_form_goes_nowhere_where_nothing_is_bound_that_it_may_go_to() -> None:
    bound = bind([OpRequest.of("add_norm", "float32", size=HIDDEN)], [NormQuant(), REFERENCE])
    assert given(bound).form is None


# --- all-reduce and norm in one -----------------------------------------------------------------------------


class ReduceNorm(KernelSet):
    """A norm that reduces a partial sum over ranks itself."""

    provider = "reduce_norm"
    level = 1

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self.partial = 0

    @kernel("add_norm", takes={"x": (PARTIAL,)})
    def add_norm(
        self, x: Any, residual: Any, weight: Any, eps: float, offset: float = 0.0, consumers: Any = (), step: Any = None
    ) -> Any:  # fmt: skip
        if isinstance(x, Partial):
            self.partial += 1
            x = self._comm.all_reduce(x.addend)
        total = x + residual
        return REFERENCE.rms_norm(total, weight, eps, offset), total


class Halves(Communicator):
    """Two ranks that hold the same."""

    size, rank = 2, 0

    def __init__(self) -> None:
        self.reduced = 0

    def all_reduce(self, x: Any) -> Any:
        assert isinstance(x, torch.Tensor)
        self.reduced += 1
        return x * 2


def test_a_norm_that_takes_partial_sums_gets_them_and_other_ops_get_them_reduced() -> None:
    w = PackedWeight({"w": torch.eye(HIDDEN)}, "dense", (HIDDEN, HIDDEN), split="rows")
    comm = Halves()
    norm = ReduceNorm(comm)
    ops = bind_ranks(linears(w), [norm, REFERENCE], comm, 0).ops
    x, residual, ones = torch.randn(3, HIDDEN), torch.randn(3, HIDDEN), torch.ones(HIDDEN)
    partial = ops.linear(x, w)
    assert isinstance(partial, Partial)
    assert torch.equal(ops.add_norm(partial, residual, ones, 1e-6)[1], 2 * x + residual) and norm.partial == 1
    assert torch.equal(ops.add_norm(x=partial, residual=residual, weight=ones, eps=1e-6)[1], 2 * x + residual)
    assert torch.equal(ops.rms_norm(partial, ones, 1e-6), REFERENCE.rms_norm(2 * x, ones, 1e-6))
    assert torch.equal(ops.add(partial, residual), 2 * x + residual)
    assert torch.equal(ops.add(residual, residual=partial), 2 * x + residual)
    assert comm.reduced == 5 and norm.partial == 2
    both = ops.add(partial, partial)
    assert isinstance(both, Partial) and comm.reduced == 5


class Halved(KernelSet):
    """A linear that leaves a sum to the norms, of weights that ranks share too, against the rule."""

    provider = "halved"
    level = 1

    @kernel("linear", makes=True, shared=True, gives=(INT8,))
    def linear(self, request: OpRequest, ops: Any, form: Form | None) -> Any:
        return lambda x, w, step=None: Quantised(x, x) if form is INT8 else x

    @kernel("add_norm", takes={"x": (INT8,)})
    def add_norm(
        self, x: Any, residual: Any, weight: Any, eps: float, offset: float = 0.0, consumers: Any = (), step: Any = None
    ) -> Any:
        raise AssertionError("not run here")

    @kernel("rms_norm", takes={"x": (INT8,)})
    def rms_norm(self, x: Any, weight: Any, eps: float, offset: float = 0.0) -> Any:
        raise AssertionError("not run here")

    @kernel("add", takes={"x": (INT8,), "residual": (INT8,)})
    def add(self, x: Any, residual: Any) -> Any:
        raise AssertionError("not run here")


def test_a_sum_over_ranks_is_of_arrays_and_another_form_is_refused_by_a_sentence() -> None:
    w = PackedWeight({"w": torch.eye(HIDDEN)}, "dense", (HIDDEN, HIDDEN), split="rows")
    bound = bind_ranks(linears(w), [Halved(), REFERENCE], Halves(), 0)
    assert given(bound).form is INT8
    with pytest.raises(
        PluginError, match=r"kernel halved.linear of .* gave a Quantised, not an Array, of a weight that"
    ):
        bound.ops.linear(torch.randn(3, HIDDEN), w)


def test_a_model_on_ranks_has_the_same_tokens_with_a_norm_that_reduces() -> None:
    sets: list[ReduceNorm] = []

    def generate(backend: Any) -> Any:
        sets.append(ReduceNorm(backend.communicator))
        return Loop(TORCH, DEEPSEEK, backend=backend, extensions=(sets[-1],)).generate(WORK, COUNT)

    tokens, meeting = on_ranks(2, generate)
    assert tokens == [expected(DEEPSEEK)[0]] * 2
    assert meeting.reduced == COUNT * (1 + 2 * DEEPSEEK.num_layers)
    assert all(one.partial for one in sets)


# --- what may be declared -----------------------------------------------------------------------------------


def _define(mark: Any, parameters: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def method({parameters}): ...", scope)
    type("Kernels", (KernelSet,), {"provider": "p", "level": 1, "method": mark(scope["method"])})


def test_forms_are_declared_only_where_a_value_may_be_opaque() -> None:
    with pytest.raises(TypeError, match="a result of rope is never opaque"):
        _define(kernel("rope", makes=True, gives=(INT8,)), "self, request, ops, form")
    with pytest.raises(TypeError, match="weight of rms_norm is never opaque"):
        _define(kernel("rms_norm", takes={"weight": (INT8,)}), "self, x, weight, eps, offset")
    with pytest.raises(TypeError, match=r"has parameters \('request', 'ops', 'form'\)"):
        _define(kernel("add_norm", makes=True, gives=(INT8,)), "self, request, ops")


def test_the_edges_of_the_contract_are_of_ops_and_parameters_that_there_are() -> None:
    def places() -> Sequence[str]:
        return [place for spec in op_specs().values() for place in (*spec.opaque_to, *spec.passes.values())]

    for place in places():
        op, _, parameter = place.partition(".")
        assert parameter in op_specs()[op].parameters
