"""Norms, activations and rotary embeddings in Triton, against the float64 references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.interpreted.calling import call, cases, check
from zif.contract.attention import RopeSpec
from zif.contract.ops import op_specs
from zif.contract.ops.draw import normal
from zif.contract.opspec import OpCase, OpRequest
from zif.reference.torch.runtime import to_numpy

DTYPES = ("float32", "bfloat16", "float16")
OPS = ("rms_norm", "add_norm", "gated_activation", "softcap", "rope_angles", "rope")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_case_of_the_op(op: str, dtype: str) -> None:
    for case in cases(op, dtype):
        check(op, case, dtype)


@pytest.mark.parametrize("size", [1, 80, 1000, 5120])
def test_norms_of_sizes_that_are_no_powers_of_two(size: int) -> None:
    rng = np.random.default_rng(size)
    arguments = {"x": normal(rng, (3, size), "bfloat16"), "weight": normal(rng, (size,), "bfloat16"), "eps": 1e-6}
    check("rms_norm", OpCase("", OpRequest.of("rms_norm", "bfloat16", size=size), arguments), "bfloat16")


def test_a_norm_of_heads_that_are_columns_of_a_wider_array() -> None:
    wide = torch.randn(5, 3 * 4 * 16)
    heads = wide[:, 64:128].reshape(5, 4, 16)
    assert not heads.is_contiguous()
    weight = torch.randn(16)
    request = OpRequest.of("rms_norm", "float32", size=16)
    strided = call("rms_norm", request, x=heads, weight=weight, eps=1e-6)
    assert torch.equal(strided, call("rms_norm", request, x=heads.contiguous(), weight=weight, eps=1e-6))


def test_add_norm_has_the_bits_of_add_and_then_norm() -> None:
    x, residual, weight = (torch.randn(*shape).bfloat16() for shape in ((7, 96), (7, 96), (96,)))
    out, total = call(
        "add_norm", OpRequest.of("add_norm", "bfloat16", size=96), x=x, residual=residual, weight=weight, eps=1e-6
    )
    apart = call("rms_norm", OpRequest.of("rms_norm", "bfloat16", size=96), x=x + residual, weight=weight, eps=1e-6)
    assert torch.equal(total, x + residual)
    assert torch.equal(out, apart)


def test_a_soft_cap_is_exact_to_float32_from_the_smallest_to_the_largest() -> None:
    x = np.concatenate([np.geomspace(1e-30, 1e30, 241), [0.0, 0.12, 0.13]]).astype(np.float32)
    x = np.concatenate([x, -x])
    got = call("softcap", OpRequest.of("softcap", "float32"), x=torch.from_numpy(x), cap=1.0).numpy()
    np.testing.assert_allclose(got, np.tanh(x.astype(np.float64)), rtol=1e-6, atol=0)


def test_activations_of_extremes_are_finite() -> None:
    gate = torch.tensor([-1e30, -200.0, -1e-30, 0.0, 1e-30, 200.0, 1e30])
    x = torch.cat([gate, torch.ones(7)])[None]
    for kind in ("silu", "gelu_tanh"):
        out = call("gated_activation", OpRequest.of("gated_activation", "float32", size=7, kind=kind), x=x, kind=kind)
        assert torch.equal(out[0, [0, 1, 3, 5, 6]], torch.tensor([0.0, 0.0, 0.0, 200.0, 1e30]))


def test_angles_lose_nothing_at_long_positions() -> None:
    rope = RopeSpec(64, tuple(1e6 ** (-np.arange(32) / 32)))
    positions = np.array([1, 131_071, 1_048_575, 9_999_999], np.int32)
    expected = op_specs()["rope_angles"].reference(positions, rope)
    request = OpRequest.of("rope_angles", "float32", rotary_dim=64)
    got = to_numpy(call("rope_angles", request, positions=torch.from_numpy(positions), rope=rope))
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("head_dim", "rotary"), [(80, 80), (96, 32), (256, 64)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_of_other_sizes(head_dim: int, rotary: int, interleaved: bool) -> None:
    rng = np.random.default_rng(head_dim)
    spec = RopeSpec(rotary, tuple(1e4 ** (-np.arange(rotary // 2) / rotary)))
    angles = op_specs()["rope_angles"].reference(rng.integers(0, 99, 3), spec)
    arguments = {"x": normal(rng, (3, 9, head_dim), "float32"), "angles": angles, "interleaved": interleaved}
    check(
        "rope", OpCase("", OpRequest.of("rope", "float32", head_dim=head_dim, rotary_dim=rotary), arguments), "float32"
    )


def test_refusals_say_why() -> None:
    from kernels.interpreted.calling import kernel_of

    request = OpRequest.of("rms_norm", "float64", size=64)
    assert "float64" in (kernel_of("rms_norm").supports(request) or "")
    assert "32768" in (
        kernel_of("rms_norm").supports(replace(request, dtype="float32", facts=(("size", 65536),))) or ""
    )
    unknown = OpRequest.of("gated_activation", "float32", size=8, kind="relu")
    assert "relu" in (kernel_of("gated_activation").supports(unknown) or "")
