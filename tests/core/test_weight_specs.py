"""A kind of weight that core does not know is one class: loading, ranks, memory and requests all ask it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest

from zif.contract.opspec import OpRequest
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    HeadsSpec,
    LinearSpec,
    Loading,
    PackedWeight,
    RepeatedSpec,
    Shard,
    WeightSpec,
)
from zif.engine.requests import tree_requests
from zif.reference.torch import TorchPacker, TorchRuntime
from zif.weights import load_weights, parameters_per_token, weight_bytes


@dataclass(frozen=True, slots=True)
class ConvSpec(WeightSpec):
    """A causal convolution's taps, stored [width, channels] and packed [channels, width]; channels are divided."""

    name: str
    channels: int
    width: int

    @property
    def split(self) -> Any:
        return "columns"

    def stored(self) -> Mapping[str, tuple[int, ...]]:
        return {self.name: (self.width, self.channels)}

    def share(self, size: int) -> Self:
        return replace(self, channels=self.channels // size)

    def pack(self, loading: Loading, local: Self, beside: Mapping[str, Any]) -> PackedWeight:
        taps = loading.read(self.name, (self.width, self.channels))
        mine = taps[:, loading.shard.slice(self.channels, local.channels)].T
        shape = (local.channels, self.width)
        linear = LinearSpec((self.name,), (local.channels,), self.width)
        return replace(loading.packer.linear(linear, [mine], (), loading.dtype), format="taps", shape=shape)

    def per_token(self) -> int:
        return self.channels * self.width

    def read_by(self, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
        yield OpRequest.of("conv", dtype, key=weight.dispatch_key, width=self.width)


class Model:
    """A convolution of its own, and two layers of one each."""

    def weights(self) -> dict[str, Any]:
        layers = [{"taps": ConvSpec(f"{i}.conv", 8, 4)} for i in range(2)]
        return {"first": ConvSpec("conv", 8, 4), "body": RepeatedSpec(layers)}

    def local(self, size: int) -> Model:
        return self


def load(shard: Shard) -> Any:
    model, checkpoint, packer = Model(), object(), TorchPacker(TorchRuntime())
    arguments: Any = (model, checkpoint, packer)
    return load_weights(*arguments, "float32", load_format="dummy", progress=False, shard=shard)


def test_it_is_loaded_in_a_stack_too_and_counted() -> None:
    model: Any = Model()
    weights = load(Shard(0, 1))
    assert [layer["taps"].shape for layer in weights["body"].layers] == [(8, 4)] * 2
    assert weight_bytes(model, "float32") == 3 * 8 * 4 * 4
    assert parameters_per_token(model) == 3 * 8 * 4
    requests = list(tree_requests(model.weights(), weights, "float32"))
    key = weights["first"].dispatch_key
    assert requests == [OpRequest.of("conv", "float32", key=key, width=4)] * 3


def test_ranks_hold_a_share_each() -> None:
    whole, first, second = load(Shard(0, 1)), load(Shard(0, 2)), load(Shard(1, 2))
    model: Any = Model()
    assert weight_bytes(model, "float32", 2) == weight_bytes(model, "float32") // 2
    for at in (lambda w: w["first"], lambda w: w["body"].layers[1]["taps"]):
        shares = [at(first), at(second)]
        assert [share.split for share in shares] == ["columns"] * 2
        joined = np.concatenate([np.asarray(share.arrays["w"]) for share in shares])
        np.testing.assert_array_equal(joined, np.asarray(at(whole).arrays["w"]))


def test_two_heads_cut_from_one_tensor_are_counted_once() -> None:
    """As a checkpoint holds them: k and v of latent attention are rows of one tensor."""

    class Latent(Model):
        def weights(self) -> dict[str, Any]:
            heads = [HeadsSpec("kv", 2, 5, 8, first, last) for first, last in ((0, 3), (3, 5))]
            return {"k_up": heads[0], "v_up": heads[1]}

    model: Any = Latent()
    assert weight_bytes(model, "bfloat16") == 2 * 5 * 8 * 2
    assert parameters_per_token(model) == 2 * 5 * 8


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        (LinearSpec(("w",), (4,), 2, split="rows"), "rows"),
        (LinearSpec(("w",), (4,), 2), None),
        (EmbeddingSpec("w", 4, 2), "vocab"),
        (HeadsSpec("w", 2, 5, 8, 0, 3), "columns"),
        (ExpertsSpec("g", "u", "d", 2, 4, 6, 1), "rows"),
    ],
)
def test_every_kind_says_how_ranks_divide_it(spec: WeightSpec, split: str | None) -> None:
    assert spec.split == split
