"""flashinfer's kernel in graphs of large steps, which the plan before a replay tells what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fake_flashinfer import (
    LARGE,
    Fronted,
    Tape,
    Unplanned,
    Wrapper,
    attention_spec,
    bound,
    kernels_of,
    reference,
)
from zif.contract.attention import AttentionSpec
from zif.contract.ops.attention import draw_step
from zif.contract.step import HostStep, Step
from zif_cuda.flashinfer_attention import FlashinferAttention

Tensor = torch.Tensor


@pytest.fixture(params=[Unplanned, Fronted])
def flashinfer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FlashinferAttention:
    return kernels_of(monkeypatch, request.param())


class LargeStep:
    """Device arrays of a step of the shape LARGE, at addresses that stay, and the cache that it reads."""

    def __init__(self, spec: AttentionSpec) -> None:
        generator = torch.Generator().manual_seed(0)
        self.cache = {
            "g": {
                name: torch.randn((2, 33, 4, spec.kv_heads, 64), generator=generator).bfloat16() for name in ("k", "v")
            }
        }
        self.q = torch.zeros((LARGE.tokens, spec.q_heads, 64)).bfloat16()
        self.spec = spec

        def zeros(*extents: int) -> Tensor:
            return torch.zeros(extents, dtype=torch.int32)

        self.step = Step(
            tokens=None, positions=None, seqs=None, logits_at=None, shape=LARGE, num_tokens=zeros(1),
            query_starts=zeros(LARGE.seqs + 1), kv_lens=zeros(LARGE.seqs),
            pages={"g": zeros(LARGE.seqs, LARGE.pages)},
        )  # fmt: skip

    def draw(self, seed: int, before: list[int], new: list[int]) -> HostStep:
        """Make it another step, in place."""
        drawn_step, _ = draw_step(np.random.default_rng(seed), before, new, 4, "g")
        real, width, step = len(new), drawn_step.pages["g"].shape[1], self.step
        step.query_starts.fill_(sum(new))[: real + 1] = torch.from_numpy(drawn_step.query_starts)
        step.kv_lens.zero_()[:real] = torch.from_numpy(drawn_step.kv_lens)
        step.pages["g"].zero_()[:real, :width] = torch.from_numpy(drawn_step.pages["g"])
        step.num_tokens.fill_(sum(new))
        self.q.copy_(torch.randn(self.q.shape, generator=torch.Generator().manual_seed(seed)))
        self.q[sum(new) :] = torch.nan
        return HostStep(LARGE, drawn_step.query_starts, drawn_step.kv_lens)

    def attention(self, ops: Any) -> list[Tensor]:
        """That of two layers."""
        return [ops.paged_attention(self.q, self.cache, layer, self.step, self.spec) for layer in (0, 1)]

    def check(self, found: list[Tensor]) -> None:
        real = int(self.step.num_tokens)
        for layer, got in enumerate(found):
            wanted = reference(self.q, self.cache, layer, self.step, self.spec)
            torch.testing.assert_close(got[:real], wanted[:real])
            assert (got[real:] == 0).all(), "padding"


STEPS = [
    ([20, 9, 0], [16, 1, 3]), ([0], [5]), ([7, 8, 1, 2], [1, 9, 20, 10]), ([0, 0], [20, 20]),
    ([7, 30, 0, 2], [1, 1, 1, 30]), ([7, 30, 4], [1, 1, 1]),
]  # fmt: skip
"""The last two begin with sequences that another kernel may take."""


@pytest.mark.parametrize("changes", [{}, {"window": 3}, {"softcap": 5.0}])
def test_a_graph_of_a_large_step_does_what_the_plan_before_its_replay_says(
    flashinfer: FlashinferAttention, changes: Any
) -> None:
    made = bound(flashinfer, attention_spec(**changes))
    (plan,) = made.plans
    assert made.capturable_in(LARGE)
    large, tape = LargeStep(attention_spec(**changes)), Tape()
    padding = HostStep(LARGE, np.zeros(1, np.int32), np.zeros(0, np.int32))
    plan(padding)
    large.check(large.attention(made.ops))
    plan(padding)
    with tape.record():
        found = large.attention(made.ops)
    (wrapper,) = [wrapper for wrapper in Wrapper.made if wrapper.plans]
    assert wrapper.rows == LARGE.tokens, "of a first plan of padding alone"
    assert sum(func is torch.ops.aten.copy_.default for func, *_ in tape.work) == 1, "page tables once a step"
    for number, (before, new) in enumerate(STEPS):
        plan(large.draw(number, before, new))
        assert wrapper.plans == 3 + number
        for out in found:
            out.fill_(torch.nan)
        tape.replay()
        large.check(found)
    assert wrapper.plans == 2 + len(STEPS)


def test_padding_sequences_are_planned_without_queries_and_padding_tokens_without_keys(
    flashinfer: FlashinferAttention,
) -> None:
    made = bound(flashinfer, attention_spec())
    made.plans[0](LargeStep(attention_spec()).draw(0, [20, 9], [16, 1]))
    (wrapper,) = [wrapper for wrapper in Wrapper.made if wrapper.plans]
    assert wrapper.planned["qo_indptr"].tolist() == [0, 0, 16, 17, 17, 17, LARGE.tokens]
    assert wrapper.planned["seq_lens"].tolist() == [0, 36, 10, 0, 0, 0]
    assert wrapper.planned["paged_kv_indptr"].tolist() == [0, 0, 12, 24, 36, 48, 60]
    assert len(wrapper.given["paged_kv_indices_buf"]) == 48


def test_sequences_at_the_front_are_left_out_where_another_kernel_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bound(kernels_of(monkeypatch, Fronted()), attention_spec())
    made.plans[0](LargeStep(attention_spec()).draw(0, [7, 30, 2], [1, 1, 20]))
    (wrapper,) = [wrapper for wrapper in Wrapper.made if wrapper.plans]
    assert wrapper.planned["qo_indptr"].tolist() == [0, 2, 2, 2, 22, 22, LARGE.tokens]
    assert wrapper.planned["seq_lens"].tolist() == [0, 0, 0, 22, 0, 0]


def test_a_large_step_that_nobody_planned_plans_itself_once(flashinfer: FlashinferAttention) -> None:
    made = bound(flashinfer, attention_spec())
    for number in (2, 3):
        large = LargeStep(attention_spec())
        large.draw(number, *STEPS[number])
        large.check(large.attention(made.ops))
    assert sum(wrapper.plans for wrapper in Wrapper.made) == 2


def test_shapes_have_wrappers_of_their_own_and_one_memory_for_plans(
    flashinfer: FlashinferAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(LARGE, seqs=8, logits=8)
    monkeypatch.setattr(flashinfer, "_captures", lambda shape: shape in (LARGE, other))
    made = bound(flashinfer, attention_spec())
    host = LargeStep(attention_spec()).draw(0, [20, 9], [16, 1])
    for shape in (LARGE, other, LARGE, other):
        made.plans[0](replace(host, shape=shape))
    planned = [wrapper for wrapper in Wrapper.made if wrapper.plans]
    assert [wrapper.plans for wrapper in planned] == [2, 2]
    assert len({wrapper.workspaces["int_workspace_buffer"].data_ptr() for wrapper in planned}) == 1


def test_a_captured_wrapper_is_planned_again_only_when_its_copies_are_done(flashinfer: FlashinferAttention) -> None:
    made = bound(flashinfer, attention_spec())
    device: Any = flashinfer._device
    device.slow = True
    host = LargeStep(attention_spec()).draw(0, [3], [4])
    made.plans[0](host)
    assert device.waits == 0
    made.plans[0](host)
    assert device.waits == 1
