"""``repeat``: a loop on torch, scans on JAX, over stacks that a packer made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from spike.formats import Int8, Int8Packer
from spike.frameworks import JAX
from spike.gemma3_shaped import Gemma3Shaped
from spike.loop import Loop
from zif.contract.step import StepShape
from zif.contract.weights import LoopStack, PackedWeight
from zif.engine import programs
from zif.reference.jax import JaxReference, Runs, register_trees
from zif.reference.torch import TorchReference

SHAPE = StepShape(2, 2, 2, 2, decode=True)


class Size(NamedTuple):
    """Of a traced program: its operations, and the loops among them."""

    equations: int
    scans: int


def traced(model: Any, quantized: Callable[[int], bool] = lambda layer: False) -> Size:
    """The forward program of a model as JAX traces it, some of whose layers are packed unlike the others."""

    def chosen(name: str) -> bool:
        return quantized(int(name.split(".")[0]))

    of = Loop(JAX, model, (Int8(JAX.einsum),), lambda packer, runtime: Int8Packer(packer, runtime, chosen))
    spec = programs.Forward(SHAPE, SHAPE.seqs).spec(of.context)
    inputs = {name: of.backend.runtime.zeros(array) for name, array in spec.inputs.items()}
    resident = {"weights": of.weights, "cache": of.store.arrays, "table": of.table.arrays}
    return measured(jax.make_jaxpr(spec.fn)(inputs, resident).jaxpr)


def measured(jaxpr: Any) -> Size:
    """The size of a program, those within it included."""
    equations, scans = 0, 0
    for equation in jaxpr.eqns:
        inner = [measured(getattr(value, "jaxpr", value)) for value in equation.params.values() if _is_jaxpr(value)]
        equations += 1 + sum(size.equations for size in inner)
        scans += (equation.primitive.name == "scan") + sum(size.scans for size in inner)
    return Size(equations, scans)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def test_a_program_does_not_grow_with_the_layers_of_a_model() -> None:
    """Two blocks of three and a rest of two, or seven blocks: two scans, and the same number of lines."""
    small = traced(Gemma3Shaped(8))
    assert small == traced(Gemma3Shaped(23))
    assert small.scans == 2
    assert small.equations > 100


def test_a_program_grows_with_the_runs_of_layers_that_are_packed_alike() -> None:
    """Of seven blocks: the first three unlike the others, then the first alone, which is no scan, then every other."""
    alike = traced(Gemma3Shaped(23))
    three, one = traced(Gemma3Shaped(23), range(9).__contains__), traced(Gemma3Shaped(23), range(3).__contains__)
    every_other = traced(Gemma3Shaped(23), lambda layer: layer // 3 % 2 == 0)
    assert (three.scans, one.scans) == (alike.scans + 1, alike.scans)
    assert alike.equations < one.equations < every_other.equations


def _stacks(lengths: tuple[int, ...]) -> tuple[Any, Any]:
    """The same layers as torch keeps them, and as JAX does in runs of ``lengths``."""
    w = np.linspace(-1.0, 1.5, 4 * sum(lengths), dtype=np.float32).reshape(-1, 4)
    runs = np.split(w, np.cumsum(lengths)[:-1])
    return LoopStack([{"w": torch.tensor(row)} for row in w]), Runs(
        tuple({"w": jnp.asarray(run)} for run in runs), lengths
    )


def _block(w: Any, carry: Any, i: Any) -> Any:
    """What the residual is, changes in the first turn: nothing there, then an array."""
    x, residual = carry
    residual = x if residual is None else residual + x
    return x * w["w"] + i, residual


@pytest.mark.parametrize("lengths", [(5,), (1, 4), (2, 1, 2), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("ends", [(0, 5), (1, 4), (2, 3), (3, 3)], ids=str)
def test_a_scan_of_runs_is_the_loop_of_layers(lengths: tuple[int, ...], ends: tuple[int, int]) -> None:
    loop, runs = _stacks(lengths)
    x = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    wanted = TorchReference().repeat(_block, loop, (torch.tensor(x), None), *ends)
    found = jax.jit(lambda x, runs: JaxReference().repeat(_block, runs, (x, None), *ends))(jnp.asarray(x), runs)
    for mine, theirs in zip(found, wanted, strict=True):
        if theirs is None:
            assert mine is None
        else:
            np.testing.assert_allclose(np.asarray(mine), theirs.numpy(), rtol=1e-6)


def test_a_carry_that_changes_its_structure_for_good_is_unrolled_once_only() -> None:
    _, runs = _stacks((5,))
    jaxpr = jax.make_jaxpr(lambda x: JaxReference().repeat(_block, runs, (x, None), 0, 5))(jnp.ones(4))
    (scan,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert scan.params["length"] == 4


def test_layers_packed_alike_are_stacked_and_their_own_arrays_given_back() -> None:
    packer = JAX.backend().packer
    layers = [{"w": jnp.full((2,), i)} for i in range(3)] + [{"w": jnp.full((3,), 3)}, {"w": jnp.full((2,), 4)}]
    stacked = packer.stack(layers)
    assert stacked.lengths == (3, 1, 1)
    assert [stack["w"].shape for stack in stacked.stacks] == [(3, 2), (1, 3), (1, 2)]
    assert np.asarray(stacked.stacks[0]["w"])[:, 0].tolist() == [0, 1, 2]
    assert all(layer["w"].is_deleted() for layer in layers)


def test_a_weight_that_was_traced_goes_by_the_key_that_it_was_bound_by() -> None:
    """JAX gives dicts back with their keys in order."""
    register_trees()
    base = PackedWeight({"w": jnp.ones((3, 2)), "b": jnp.ones(3)}, "dense", (3, 2))
    outer = PackedWeight({"base": base, "a": jnp.ones(1)}, "lora", (3, 2))
    for weight in (base, outer):
        seen: list[Any] = []
        jax.jit(lambda w: seen.append(w.dispatch_key))(weight)  # noqa: B023
        assert seen == [weight.dispatch_key]
    assert outer.dispatch_key != PackedWeight({"base": outer, "a": jnp.ones(1)}, "lora", (3, 2)).dispatch_key
