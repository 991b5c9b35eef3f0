"""Experts are the same weight however a checkpoint stores them, whole and divided among ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from zif.contract.errors import WeightsError
from zif.contract.weights import ExpertsSpec, Shard
from zif.reference.jax import JaxPacker, JaxRuntime
from zif.reference.torch import TorchPacker, TorchRuntime
from zif.weights import Checkpoint, load_weights

EXPERTS, SIZE, HIDDEN = 3, 8, 6
RNG = np.random.default_rng(1)
GATE, UP = (RNG.standard_normal((EXPERTS, SIZE, HIDDEN)).astype(np.float32) for _ in range(2))
DOWN = RNG.standard_normal((EXPERTS, HIDDEN, SIZE)).astype(np.float32)
GATE_BIAS, UP_BIAS = (RNG.standard_normal((EXPERTS, SIZE)).astype(np.float32) for _ in range(2))
DOWN_BIAS = RNG.standard_normal((EXPERTS, HIDDEN)).astype(np.float32)
BOTH, BOTH_BIAS = np.concatenate([GATE, UP], 1), np.concatenate([GATE_BIAS, UP_BIAS], 1)

SIZES = {"experts": EXPERTS, "hidden": HIDDEN, "size": SIZE, "top_k": 2}


def mixed(first: Any, second: Any) -> Any:
    """Rows of two arrays in turn."""
    return np.stack([first, second], axis=2).reshape(EXPERTS, 2 * SIZE, *first.shape[2:])


def each(**parts: Any) -> dict[str, Any]:
    """A tensor an expert."""
    return {f"{e}.{name}": part[e] for e in range(EXPERTS) for name, part in parts.items()}


LAYOUTS: dict[str, tuple[ExpertsSpec, dict[str, Any]]] = {
    "a tensor an expert": (
        ExpertsSpec("{e}.gate", "{e}.up", "{e}.down", **SIZES),
        each(gate=GATE, up=UP, down=DOWN),
    ),
    "gate and up of an expert in one": (
        ExpertsSpec("{e}.both", "{e}.both", "{e}.down", **SIZES),
        each(both=BOTH, down=DOWN),
    ),
    "three tensors of all": (
        ExpertsSpec("gate", "up", "down", **SIZES),
        {"gate": GATE, "up": UP, "down": DOWN},
    ),
    "stacked": (ExpertsSpec("both", "both", "down", **SIZES), {"both": BOTH, "down": DOWN}),
    "stacked and transposed, as Llama 4 has it": (
        ExpertsSpec("both", "both", "down", gate_up_transposed=True, down_transposed=True, **SIZES),
        {"both": BOTH.swapaxes(1, 2), "down": DOWN.swapaxes(1, 2)},
    ),
    "only down transposed": (
        ExpertsSpec("both", "both", "down", down_transposed=True, **SIZES),
        {"both": BOTH, "down": DOWN.swapaxes(1, 2)},
    ),
    "interleaved, transposed and biased, as gpt-oss has it": (
        ExpertsSpec(
            "both", "both", "down", bias=("bias", "bias", "down_bias"), interleaved=True,
            gate_up_transposed=True, down_transposed=True, **SIZES,
        ),
        {
            "both": mixed(GATE, UP).swapaxes(1, 2), "down": DOWN.swapaxes(1, 2),
            "bias": mixed(GATE_BIAS, UP_BIAS), "down_bias": DOWN_BIAS,
        },
    ),
    "biases a tensor each": (
        ExpertsSpec("gate", "up", "down", bias=("{e}.gb", "{e}.ub", "{e}.db"), **SIZES),
        {"gate": GATE, "up": UP, "down": DOWN} | each(gb=GATE_BIAS, ub=UP_BIAS, db=DOWN_BIAS),
    ),
}  # fmt: skip
PACKERS = {"torch": lambda: TorchPacker(TorchRuntime()), "jax": lambda: JaxPacker(JaxRuntime())}


class Model:
    def __init__(self, spec: ExpertsSpec) -> None:
        self._spec = spec

    def weights(self) -> dict[str, Any]:
        return {"experts": self._spec}

    def local(self, size: int) -> Model:
        return Model(replace(self._spec, size=self._spec.size // size))


def load(layout: str, path: Path, packer: str, shard: Shard, dtype: str = "float32") -> dict[str, Any]:
    spec, tensors = LAYOUTS[layout]
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    model: Any = Model(spec)
    made: Any = PACKERS[packer]()
    packed = load_weights(model, Checkpoint(path), made, dtype, progress=False, shard=shard)["experts"]
    assert packed.shape == (EXPERTS, SIZE // shard.size, HIDDEN)
    return dict(packed.arrays)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_packed_alike(layout: str, packer: str, tmp_path: Path) -> None:
    arrays = load(layout, tmp_path, packer, Shard(0, 1))
    wanted = {"gate_up": BOTH, "down": DOWN}
    if LAYOUTS[layout][0].bias:
        wanted |= {"gate_up_bias": BOTH_BIAS, "down_bias": DOWN_BIAS}
    assert arrays.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(arrays[name]), value, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_have_shares_of_each_expert_s_inner_units(layout: str, tmp_path: Path) -> None:
    ranks = [load(layout, tmp_path, "torch", Shard(rank, 2)) for rank in range(2)]
    half = SIZE // 2
    for rank, arrays in enumerate(ranks):
        mine = slice(rank * half, (rank + 1) * half)
        np.testing.assert_array_equal(arrays["gate_up"], np.concatenate([GATE[:, mine], UP[:, mine]], 1))
        np.testing.assert_array_equal(arrays["down"], DOWN[:, :, mine])
        if "down_bias" in arrays:
            np.testing.assert_array_equal(
                arrays["gate_up_bias"], np.concatenate([GATE_BIAS[:, mine], UP_BIAS[:, mine]], 1)
            )
            np.testing.assert_array_equal(arrays["down_bias"], DOWN_BIAS if rank == 0 else np.zeros_like(DOWN_BIAS))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_strided_view_is_rounded_on_its_way(packer: str, tmp_path: Path) -> None:
    arrays = load("interleaved, transposed and biased, as gpt-oss has it", tmp_path, packer, Shard(0, 1), "bfloat16")
    wide = {name: array.float().numpy() if packer == "torch" else np.asarray(array) for name, array in arrays.items()}
    np.testing.assert_allclose(wide["gate_up"], BOTH, rtol=2**-8)
    np.testing.assert_allclose(wide["down_bias"], DOWN_BIAS, rtol=2**-8)


def test_an_expert_that_is_not_there_is_named(tmp_path: Path) -> None:
    spec, tensors = LAYOUTS["a tensor an expert"]
    save_file({name: value for name, value in tensors.items() if name != "2.up"}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    model: Any = Model(spec)
    packer: Any = TorchPacker(TorchRuntime())
    with pytest.raises(WeightsError, match=r"tensors are missing: 2\.up; looked at"):
        load_weights(model, Checkpoint(tmp_path), packer, "float32", progress=False)
