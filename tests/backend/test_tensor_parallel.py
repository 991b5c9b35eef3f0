"""Tensor parallelism, ranks as threads: every family computes on several ranks what it computes on one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from backend.checkpoints import CHECKPOINTS, SERVED, VOCAB, Saved, save
from backend.driver import model_of
from backend.ranks import on_ranks
from zif.contract.arrays import ArraySpec
from zif.contract.errors import InvalidSettings, NoUsableDevice, UnsupportedModel
from zif.contract.executable import ProgramFacts
from zif.contract.info import Available, Device
from zif.contract.step import HostStep, StepShape
from zif.contract.weights import EmbeddingSpec, LinearSpec, PackedWeight, RepeatedSpec, VectorSpec
from zif.engine.engine import Engine
from zif.engine.launch import Launch
from zif.engine.programs import Decode, ProgramSpec
from zif.messages import EngineRequest
from zif.parallel.wire import LaunchReader, LaunchWriter
from zif.plugins.selection import Considered, Selection
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchPacker, TorchRuntime
from zif.sampling.params import SamplingParams
from zif.sampling.sampler import SamplerShape
from zif.settings import Settings
from zif.weights import Checkpoint, LoadFormat, Shard, load_weights, weight_bytes
from zif.weights.load import local_weights

RNG = np.random.default_rng(5)
SHARED = RNG.integers(1, VOCAB, 17).tolist()
PROMPTS = [SHARED + RNG.integers(1, VOCAB, length).tolist() for length in (2, 19, 5)]
NEW = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=NEW, seed=11, repetition_penalty=1.1)


def settings_of(saved: Saved, size: int = 1, **values: Any) -> Settings:
    return Settings(
        **{
            "model": str(saved.path), "max_total_tokens": 512, "page_size": 2, "chunked_prefill_size": 16,
            "dtype": "float32", "tp_size": size, **values,
        }
    )  # fmt: skip


def run(engine: Engine) -> list[list[int]]:
    """Greedy and seeded tokens of the prompts, twice: the second time from the prefix cache."""
    tokens: dict[str, list[int]] = {}
    for turn in range(2):
        for kind, params in (("greedy", GREEDY), ("sampled", SAMPLED)):
            for row, prompt in enumerate(PROMPTS):
                tokens[name := f"{kind}-{row}-{turn}"] = []
                assert engine.add(EngineRequest(name, prompt, params, ())) is None
        while engine.has_work:
            for output in engine.step():
                tokens[output.request_id] += output.token_ids
    return list(tokens.values())


ROPES = ("llama-linear", "llama-dynamic", "llama-llama3", "llama-yarn", "llama-longrope", "phi3-longrope")
"""Of which a rank computes what one device computes."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ROPES else name for name in CHECKPOINTS]
)
def test_two_ranks_give_the_tokens_of_one(name: str, tmp_path: Path) -> None:
    saved = save(name, tmp_path)
    context = {"context_length": SERVED.get(name)}
    alone = run(build_engine(settings_of(saved, **context), progress=False, backend=TorchBackend(TorchRuntime())))
    both, meeting = on_ranks(
        2, lambda backend: run(build_engine(settings_of(saved, 2, **context), progress=False, backend=backend))
    )
    assert both[0] == alone
    assert both[1] == alone
    assert meeting.reduced
    assert meeting.gathered


def test_four_ranks_share_two_key_value_heads(tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    alone = run(build_engine(settings_of(saved), progress=False, backend=TorchBackend(TorchRuntime())))
    ranks, _ = on_ranks(4, lambda backend: run(build_engine(settings_of(saved, 4), progress=False, backend=backend)))
    assert ranks == [alone] * 4


def leaves(specs: Any, local: Any, packed: list[Any]) -> Iterator[tuple[Any, Any, list[Any]]]:
    """(spec, a rank's spec, what each rank made of it) of every weight that is not tied."""
    if isinstance(specs, RepeatedSpec):
        specs, local, packed = list(specs.copies), list(local.copies), [stack.layers for stack in packed]
    if isinstance(specs, dict | list):
        for key in specs if isinstance(specs, dict) else range(len(specs)):
            yield from leaves(specs[key], local[key], [tree[key] for tree in packed])
    elif not (isinstance(specs, LinearSpec) and specs.tied):
        yield specs, local, packed


def joined(spec: Any, local: Any, ranks: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The whole weight [out, in] or bias [out], of the ranks' shares of it."""
    if isinstance(spec, VectorSpec):
        assert all((rank == ranks[0]).all() for rank in ranks)
        return ranks[0]
    if isinstance(spec, EmbeddingSpec) or spec.split == "vocab":
        table = np.concatenate(ranks)
        whole = spec.vocab if isinstance(spec, EmbeddingSpec) else spec.rows
        assert not table[whole:].any()
        return table[:whole]
    if spec.split == "rows":
        return sum(ranks[1:], ranks[0]) if ranks[0].ndim == 1 else np.concatenate(ranks, axis=1)
    parts, row = [], 0
    for whole, rows in zip(spec.out_features, local.out_features, strict=True):
        copies = len(ranks) * rows // whole
        shares = [rank[row : row + rows] for rank in ranks]
        for at, share in enumerate(shares):
            np.testing.assert_array_equal(share, shares[at // copies * copies])
        parts.append(np.concatenate(shares[::copies]))
        row += rows
    return np.concatenate(parts)


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["llama-biases", "llama-tied", "gemma2", "phi3", "qwen2"])
def test_shares_of_all_ranks_make_the_whole(name: str, size: int, load_format: LoadFormat, tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(name, tmp_path).path)
    model = model_of(checkpoint.config)
    packer = TorchPacker(TorchRuntime())

    def load(shard: Shard) -> Any:
        return load_weights(model, checkpoint, packer, "float32", progress=False, load_format=load_format, shard=shard)

    whole = load(Shard(0, 1))
    packed = [load(Shard(rank, size)) for rank in range(size)]
    local = local_weights(model, size)
    count = 0
    for spec, share, (alone, *ranks) in leaves(model.weights(), local, [whole, *packed]):
        for array in ("w", "b") if isinstance(alone, PackedWeight) else (None,):
            if array == "b" and "b" not in alone.arrays:
                continue
            found, *shares = (made if array is None else made.arrays[array] for made in (alone, *ranks))
            np.testing.assert_array_equal(joined(spec, share, [rank.numpy() for rank in shares]), found.numpy())
            count += 1
    assert count > 10
    assert weight_bytes(model, "float32", size) < weight_bytes(model, "float32", 1)


def test_a_rank_is_handed_views_of_its_share_alone(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save("llama", tmp_path, vocab_size=200).path)
    model = model_of(checkpoint.config)
    handed: list[Any] = []

    class Watching(TorchPacker):
        def rows(self, parts: Any, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
            handed.extend(parts)
            return super().rows(parts, shape, dtype)

    for rank in range(2):
        load_weights(model, checkpoint, Watching(TorchRuntime()), "float32", progress=False, shard=Shard(rank, 2))
    assert not any(part.flags.owndata for part in handed), "a copy was made on the way"
    sizes = {name: checkpoint.tensors.read(name).size for name in checkpoint.tensors.names}
    twice = sum(size for name, size in sizes.items() if "norm" in name)  # vectors are on every rank
    assert sum(part.size for part in handed) == sum(sizes.values()) + twice


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}, 4, "6 attention heads .* by 1, 2, 3, 6"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 16},
            4,
            "6 key-value heads .* by 1, 2, 3, 6",
        ),
        ({"intermediate_size": 97}, 2, "97 inner units of the MLP .* by 1"),
    ],
)
def test_sizes_that_do_not_divide(changes: dict[str, int], size: int, message: str, tmp_path: Path) -> None:
    config = save("llama", tmp_path).config | changes
    with pytest.raises(UnsupportedModel, match=f"--tp-size {size}: the model's {message}"):
        model_of(config).local(size)


def test_a_backend_that_was_made_for_other_ranks_is_refused(tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    with pytest.raises(InvalidSettings, match="--tp-size 2: torch was made for 1"):
        build_engine(settings_of(saved, 2), progress=False, backend=TorchBackend(TorchRuntime()))


def test_devices_of_ranks() -> None:
    """From the one that was asked for on, unless ranks may share it."""
    devices = tuple(Device(name="gpu", index=index) for index in range(3))
    plugin: Any = SimpleNamespace(name="acme", found="zif-acme 1.0", info=SimpleNamespace(ranks="processes"))
    trace = (Considered("acme", "zif-acme", "chosen", probe=Available(devices)),)

    def of(index: int, size: int, **changes: Any) -> list[int]:
        device = replace(devices[index], **changes)
        selection = Selection(plugin, device, {}, "", trace)
        return [device.index for device in selection.devices_of_ranks(size)]

    assert of(0, 2) == [0, 1]
    assert of(1, 2) == [1, 2]
    assert of(1, 4, shared=True) == [1, 1, 1, 1]
    with pytest.raises(NoUsableDevice, match=r"--tp-size 4 from acme:1 on: acme:3, acme:4 not there; .* found 0, 1, 2"):
        of(1, 4)
    plugin.info.ranks = None
    with pytest.raises(InvalidSettings, match=r"zif-acme 1\.0 has no tensor parallelism"):
        of(0, 2)


def test_an_order_to_followers_says_all_that_a_launch_needs() -> None:
    shape = StepShape(4, 4, 8, 4, decode=True)
    program = Decode(shape, SamplerShape(4))
    hidden = np.arange(8).reshape(4, 2).astype(ml_dtypes.bfloat16)
    inputs = {"rows": np.arange(4, dtype=np.int32), "scale": np.ones((4, 2), np.float32), "hidden": hidden}
    specs = {name: ArraySpec(value.shape, value.dtype.name) for name, value in inputs.items()}
    spec = ProgramSpec("decode", lambda inputs, resident: ({}, {}), specs, {}, (), facts=ProgramFacts(shape))
    step = HostStep(shape, np.array([0, 1, 2], np.int32), np.array([5, 9], np.int32))
    planned = Launch(program, inputs, ("logits",), step)
    writer, reader = LaunchWriter(), LaunchReader({program: spec}.__getitem__)
    for launch in (planned, replace(planned, step=None)):
        message = writer.message(launch)
        found = reader.launch(*pickle.loads(message))
        assert (found.program, found.takes) == (program, ("logits",))
        for name in specs:
            np.testing.assert_array_equal(found.inputs[name], inputs[name])
            assert found.inputs[name].dtype == inputs[name].dtype
        if found.step is not None:
            assert found.step.shape == shape
            np.testing.assert_array_equal(found.step.query_starts, step.query_starts)
            np.testing.assert_array_equal(found.step.kv_lens, step.kv_lens)
    assert found.step is None
    assert len(message) < 200, "the program travels once"
