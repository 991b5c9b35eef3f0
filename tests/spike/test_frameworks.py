"""One model file on torch and on JAX, held against the float64 specification of every op it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from spike.formats import Int8, Int8Packer, Lora, LoraPacker
from spike.frameworks import BOTH, ORACLE, TORCH, Framework
from spike.loop import Loop, Sequences
from spike.shared import COUNT, DEEPSEEK, DRAWN, FRAMEWORKS, GEMMA, MODELS, PROMPTS, WORK, Shaped, expected, loop
from zif.conformance.latent_model import DeepSeek2Shaped
from zif.contract.arrays import tree_leaves
from zif.contract.model import InputSpec


@MODELS
@FRAMEWORKS
def test_tokens_and_logits_are_those_of_the_specification(framework: Framework, model: Shaped) -> None:
    """Sampling an executable of its own, fed with logits that the forward program left on the device."""
    split = loop(framework, model)
    tokens, logits = expected(model)
    before = len(split.logits)
    assert split.generate(WORK, COUNT, fuse=False) == tokens
    for found, wanted in zip(split.logits[before:], logits, strict=True):
        np.testing.assert_allclose(np.asarray(found)[:3], wanted[:3], rtol=0, atol=1e-4)


@MODELS
def test_the_case_is_one_that_a_wrong_page_or_position_would_change(model: Shaped) -> None:
    """The sequences draw different tokens, and none of them the same one over and over."""
    tokens, _ = expected(model)
    assert len({tuple(row) for row in tokens}) == len(tokens)
    assert all(len(set(row)) > 1 for row in tokens)


@MODELS
@FRAMEWORKS
def test_sampling_within_the_decode_program_draws_the_same(framework: Framework, model: Shaped) -> None:
    assert loop(framework, model).generate(WORK, COUNT, fuse=True) == expected(model)[0]


@MODELS
@FRAMEWORKS
def test_a_step_launched_before_the_one_before_is_read_draws_the_same(framework: Framework, model: Shaped) -> None:
    """The token comes from the request table: the host does not know it yet."""
    assert loop(framework, model).generate(WORK, COUNT, fuse=True, overlap=True) == expected(model)[0]


@MODELS
@FRAMEWORKS
def test_a_request_alone_draws_what_it_draws_in_a_batch(framework: Framework, model: Shaped) -> None:
    """Its random bits are its own, and so are its pages, in each group."""
    shared = loop(framework, model)
    swapped = Sequences([PROMPTS[2], PROMPTS[0], PROMPTS[1]], [DRAWN[2], DRAWN[0], DRAWN[1]], [-1] * 3)
    found = shared.generate(swapped, COUNT)
    assert [found[1], found[2], found[0]] == expected(model)[0]


@FRAMEWORKS
def test_layers_run_in_two_stages_are_the_same_layers(framework: Framework) -> None:
    """A stage may begin within a stack, with no residual yet: the first turn of a scan then stands apart."""

    class TwoStages(DeepSeek2Shaped):
        def layers(self, ops: Any, w: Any, x: Any, cache: Any, step: Any, start: int = 0, stop: Any = None) -> Any:
            for ends in ((0, 2), (2, self.num_layers)):
                x, cache = super().layers(ops, w, x, cache, step, *ends)
            return x, cache

    staged = prefill_logits(Loop(framework, TwoStages()), WORK)
    np.testing.assert_allclose(staged, expected(DEEPSEEK)[1][0][:3], rtol=0, atol=1e-4)


# --- weight formats that core does not know, and adapters a row ---

ADAPTED = replace(GEMMA, inputs=(InputSpec("adapter", "int32", "token"),))


def quantized(name: str) -> bool:
    """In some layers and not in others, so that neither all blocks nor all layers of a block are alike."""
    return name in ("0.q", "1.q", "2.down", "4.q", "4.down", "6.o")


def adapted(name: str) -> bool:
    return name.endswith((".q", ".down"))


def _formats(packer: Any, runtime: Any) -> Any:
    return LoraPacker(Int8Packer(packer, runtime, quantized), runtime, adapted)


def _int8(packer: Any, runtime: Any) -> Any:
    return Int8Packer(packer, runtime, quantized)


@cache
def adapted_loop(framework: Framework) -> Loop:
    extensions = (Lora(framework.einsum), Int8(framework.einsum))
    return Loop(framework, ADAPTED, extensions, _formats)


def prefill_logits(of: Loop, work: Sequences) -> Any:
    of.generate(work, 1)
    return np.asarray(of.logits[-1])[: len(work.prompts)]


@FRAMEWORKS
def test_each_format_gets_the_kernel_that_serves_it(framework: Framework) -> None:
    chosen = {
        (choice.request["format"], choice.kernel.provider)
        for choice in adapted_loop(framework).bound.choices
        if choice.request.op == "linear"
    }
    reference = f"{framework.name}_reference"
    assert chosen == {("lora", "lora_extension"), ("int8", "int8_extension"), ("dense", reference)}


@FRAMEWORKS
def test_int8_and_dense_layers_side_by_side_follow_the_specification(framework: Framework) -> None:
    work = replace(WORK, adapters=[-1, 1, 0])
    wanted = adapted_loop(ORACLE)
    assert adapted_loop(framework).generate(work, COUNT) == wanted.generate(work, COUNT)
    np.testing.assert_allclose(
        prefill_logits(adapted_loop(framework), work), prefill_logits(wanted, work), rtol=0, atol=1e-4
    )


@FRAMEWORKS
def test_an_adapter_on_one_row_leaves_the_other_rows_bits_alone(framework: Framework) -> None:
    of = adapted_loop(framework)
    without = prefill_logits(of, replace(WORK, adapters=[-1, -1, -1]))
    with_one = prefill_logits(of, replace(WORK, adapters=[-1, 1, -1]))
    assert (without[[0, 2]] == with_one[[0, 2]]).all()
    assert np.abs(without[1] - with_one[1]).max() > 0.1
    without_formats = expected(GEMMA)[1][0][:3]
    assert np.abs(without - without_formats).max() > 1e-3, "int8 weights were not used"


def test_rows_without_an_adapter_have_the_bits_of_a_model_without_any() -> None:
    """On a framework that runs op by op; a compiler may round another program otherwise."""
    plain = Loop(TORCH, GEMMA, (Int8(TORCH.einsum),), _int8)
    with_one = prefill_logits(adapted_loop(TORCH), replace(WORK, adapters=[-1, 1, -1]))
    assert (prefill_logits(plain, WORK)[[0, 2]] == with_one[[0, 2]]).all()


# --- planted bugs: what these tests must be able to see ---


def _swap_groups(of: Loop) -> None:
    pages = of.table.arrays["pages"]
    of.table.arrays["pages"] = {"local": pages["global"], "global": pages["local"]}


def _forget_last_token(of: Loop) -> None:
    arrays = of.table.arrays
    of.table.arrays = {**arrays, "last_token": arrays["last_token"] * 0}


def _shift_lengths(of: Loop) -> None:
    arrays = of.table.arrays
    of.table.arrays = {**arrays, "kv_len": arrays["kv_len"] + 1}


@FRAMEWORKS
@pytest.mark.parametrize("plant", [_swap_groups, _forget_last_token, _shift_lengths])
def test_a_planted_bug_changes_what_is_drawn(framework: Framework, plant: Callable[[Loop], None]) -> None:
    of = loop(framework, GEMMA)
    assert of.generate(WORK, COUNT, between=lambda: plant(of)) != expected(GEMMA)[0]


@MODELS
def test_every_leaf_of_the_weights_is_the_framework_s_own(model: Shaped) -> None:
    for framework in BOTH:
        kinds = {type(leaf).__module__.split(".")[0] for leaf in tree_leaves(loop(framework, model).weights)}
        assert kinds == ({"torch"} if framework is TORCH else {"jaxlib"})
