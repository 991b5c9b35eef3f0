"""Run by ``test_own_kernels.py`` in a process of its own: Triton reads TRITON_INTERPRET when kernels are defined."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from zif.contract.binding import bind
from zif.contract.comm import Communicator, Partial
from zif.contract.opspec import OpRequest
from zif.contract.weights import PackedWeight
from zif.engine.collectives import bind_ranks
from zif.portable.triton import Machine, TritonKernels, launch
from zif.portable.triton.layers import SplitSum, Unnormed
from zif.reference.torch.reference import TorchReference
from zif_cuda.linears import CudaLinears
from zif_cuda.packing import SUMMED
from zif_cuda.tuning import Choices

KERNELS = (CudaLinears(launch, Choices(Machine(132, 232448))), TritonKernels(), TorchReference())


def weight(rows: int, inner: int, *, bias: bool, facts: tuple[str, ...] = ()) -> PackedWeight:
    arrays = {"w": torch.randn(rows, inner).half() * inner**-0.5}
    if bias:
        arrays["b"] = torch.randn(rows).half()
    return PackedWeight(arrays, "dense", (rows, inner), facts)


def exact(x: torch.Tensor, w: PackedWeight) -> torch.Tensor:
    bias = w.arrays.get("b")
    return F.linear(x.double(), w.arrays["w"].double(), None if bias is None else bias.double())


def linears_agree(tokens: int, *, bias: bool) -> None:
    """A model's four kinds of linears, and what takes a sum in parts, for one number of tokens."""
    inner, size = 1536, 96
    plain, summed = weight(80, inner, bias=bias), weight(size, inner, bias=bias, facts=(SUMMED,))
    gated, head = weight(2 * size, 512, bias=bias), weight(75, 512, bias=False)
    facts = {"format": "dense", "bias": bias}
    requests = [
        OpRequest.of("linear", "float16", key=w.dispatch_key, in_features=w.shape[1], out_features=w.shape[0], **facts)
        for w in (plain, summed, gated, head)
    ]
    requests += [
        OpRequest("gated_linear", "float16", (*requests[2].facts, ("kind", "silu"))),
        OpRequest("logits", "float16", requests[3].facts),
        OpRequest.of("add_norm", "float16", size=size), OpRequest.of("rms_norm", "float16", size=size),
        OpRequest.of("add", "float16"), OpRequest.of("gated_activation", "float16", size=size, kind="silu"),
    ]  # fmt: skip
    bound = bind(requests, KERNELS)
    assert {choice.kernel.provider for choice in bound.choices if "linear" in choice.request.op} == {"cuda"}
    ops = bound.ops
    x, narrow, residual = torch.randn(tokens, inner).half(), torch.randn(tokens, 512).half(), torch.randn(tokens, size)
    residual, norm = residual.half(), torch.randn(size).half()
    tight = {"rtol": 4e-3, "atol": 4e-3}
    torch.testing.assert_close(ops.linear(x, plain).double(), exact(x, plain), **tight)
    gate, up = exact(narrow, gated).half().double().chunk(2, -1)
    torch.testing.assert_close(ops.gated_linear(narrow, gated, "silu").double(), F.silu(gate) * up, **tight)
    made = ops.logits(narrow, head)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), exact(narrow, head), rtol=1e-5, atol=1e-5)
    parts = ops.linear(x, summed)
    assert isinstance(parts, SplitSum) == (1 < tokens <= 256), "few outputs: the inputs are split"
    total = exact(x, summed)
    scaled = total / (total.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.double()
    torch.testing.assert_close(ops.rms_norm(parts, norm, 1e-6).double(), scaled, **tight)
    normed, summed_up = ops.add_norm(parts, residual, norm, 1e-6)
    torch.testing.assert_close(summed_up.double(), total + residual.double(), **tight)
    rounded = summed_up.double()
    expected = rounded / (rounded.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.double()
    torch.testing.assert_close(normed.double(), expected, **tight)
    torch.testing.assert_close(ops.add(parts, residual).double(), total + residual.double(), **tight)
    torch.testing.assert_close(ops.add(residual, parts), ops.add(parts, residual), rtol=0, atol=0)


def norm_of_one_token_is_left_to_its_readers(*, bias: bool, parts: bool) -> None:
    """add_norm, then a linear and a gated one, as ops of a model and as the same ops that were bound without them."""
    size = 512
    plain, gated = weight(72, size, bias=bias), weight(160, size, bias=bias)
    facts = {"format": "dense", "bias": bias, "in_features": size}
    requests = [
        OpRequest.of("linear", "float16", key=w.dispatch_key, out_features=w.shape[0], **facts) for w in (plain, gated)
    ]
    requests.append(OpRequest("gated_linear", "float16", (*requests[1].facts, ("kind", "silu"))))
    requests.append(OpRequest.of("add_norm", "float16", size=size))
    ops = bind(requests, KERNELS).ops
    x, residual, norm = torch.randn(1, size), torch.randn(1, size).half(), torch.randn(size).half()
    given = SplitSum(torch.stack([x - 1, x * 0 + 0.25, x * 0 + 0.75]), torch.float16) if parts else x.half()
    one: Any = SimpleNamespace(shape=SimpleNamespace(tokens=1))
    for w, step in ((plain, None), (gated, None), (plain, one)):
        later, total = ops.add_norm(given, residual, norm, 1e-6, 1.0, (w,), step)
        assert isinstance(later, Unnormed)
        total.fill_(float("nan"))
        got = ops.linear(later, plain) if w is plain else ops.gated_linear(later, gated, "silu")
        normed, expected = ops.add_norm(given, residual, norm, 1e-6, 1.0)
        assert isinstance(normed, torch.Tensor)
        assert torch.equal(total, expected)
        reference = exact(normed.double().half(), w)
        if w is gated:
            gate, up = reference.half().double().chunk(2, -1)
            reference = F.silu(gate) * up
        torch.testing.assert_close(got.double(), reference, rtol=4e-3, atol=4e-3)
        torch.testing.assert_close(later.normed(launch), normed, rtol=0, atol=0)
    two: Any = SimpleNamespace(shape=SimpleNamespace(tokens=2))
    pair = (torch.randn(2, size).half(), torch.randn(2, size).half())
    assert isinstance(ops.add_norm(*pair, norm, 1e-6, 1.0, (plain,), two)[0], torch.Tensor)
    large = PackedWeight({}, "dense", (1 << 15, size))
    assert isinstance(ops.add_norm(given, residual, norm, 1e-6, 1.0, (large,))[0], torch.Tensor)
    alone = bind(requests[-1:], KERNELS).ops
    assert isinstance(alone.add_norm(given, residual, norm, 1e-6, 1.0, (plain,))[0], Unnormed) is False


class Alike(Communicator):
    """Two ranks that hold the same."""

    size, rank = 2, 0

    def all_reduce(self, x: Any) -> Any:
        assert isinstance(x, torch.Tensor), f"ranks sum tensors, not {type(x).__name__}"
        return x.mul_(2)

    def all_gather(self, x: Any) -> Any:
        return torch.cat([x, x], -1)


def ranks_sum_tensors(tokens: int) -> None:
    """Where ranks follow, a linear leaves no parts; what a norm leaves to its readers is of the whole sum."""
    inner, size = 1536, 512
    summed, read = weight(size, inner, bias=False, facts=(SUMMED,)), weight(72, size, bias=False)
    head = weight(75, size, bias=False)
    facts = {"format": "dense", "bias": False}
    requests = [
        OpRequest.of("linear", "float16", key=w.dispatch_key, in_features=w.shape[1], out_features=w.shape[0], **facts)
        for w in (summed, read, head)
    ]
    requests += [OpRequest("logits", "float16", requests[2].facts), OpRequest.of("add_norm", "float16", size=size)]
    requests += [OpRequest.of("rms_norm", "float16", size=size), OpRequest.of("add", "float16")]
    ops = bind_ranks(requests, KERNELS, Alike(), 149).ops
    x, residual, norm = torch.randn(tokens, inner).half(), torch.randn(tokens, size).half(), torch.randn(size).half()
    partial = ops.linear(x, replace(summed, split="rows"))
    assert isinstance(partial, Partial)
    normed, total = ops.add_norm(partial, residual, norm, 1e-6, consumers=(read,))
    got = ops.linear(normed, replace(read, split="columns"))
    whole = 2 * exact(x, summed).half().double() + residual.double()
    torch.testing.assert_close(total.double(), whole, rtol=4e-3, atol=4e-3)
    expected = total.double() / (total.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.double()
    torch.testing.assert_close(got.double(), exact(expected.half(), read), rtol=4e-3, atol=8e-3)
    logits = ops.logits(expected.half(), replace(head, split="vocab"))
    assert logits.shape == (tokens, 149)
    assert logits.is_contiguous()
    torch.testing.assert_close(logits[:, 75:], logits[:, :74], rtol=0, atol=0)


for count in (1, 5, 70):
    torch.manual_seed(count)
    ranks_sum_tensors(count)
for with_bias in (False, True):
    torch.manual_seed(7)
    norm_of_one_token_is_left_to_its_readers(bias=with_bias, parts=with_bias)
for count, with_bias in (
    (1, True), (1, False), (5, True), (29, False), (40, True), (100, False), (130, True), (260, False),
):  # fmt: skip
    torch.manual_seed(count)
    linears_agree(count, bias=with_bias)
print("agrees")
