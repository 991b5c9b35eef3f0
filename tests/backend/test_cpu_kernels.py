"""Every kernel of the cpu backend against the float64 references of its op, and what each refuses.

The cases are the op specifications' own, plus those where this backend's kernels change their way:
sizes that fill no register, keys split over threads, pages that nothing may read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zif.contract.arrays import tree_map
from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.errors import InvalidSettings
from zif.contract.info import Device
from zif.contract.kernels import Kernel
from zif.contract.ops import op_specs
from zif.contract.ops.attention import attention_request, draw_step, rope_angles
from zif.contract.ops.draw import normal, numpy_dtype
from zif.contract.ops.sampling import clear_seeds, draw_logits
from zif.contract.ops.threefry import BLOCK, block_uniform, uniform
from zif.contract.ops.tolerances import REDUCTION
from zif.contract.opspec import OpCase, OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import EmbeddingSpec, LinearSpec, PackedWeight
from zif.reference.torch.runtime import to_numpy, torch_dtype
from zif_cpu.backend import CpuBackend, create
from zif_cpu.build import BuildFailed, cache_directory, library
from zif_cpu.kernels import NativeKernels
from zif_cpu.native import Native
from zif_cpu.packing import FORMAT
from zif_cpu.threads import thread_count, usable_cores

DTYPES = ("float32", "bfloat16")
FLOAT32_ARGUMENTS = {"logits", "temperature", "top_p", "min_p", "repetition", "presence", "frequency", "angles"}


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(2, Native(2), None)


def kernels_of(backend: CpuBackend, op: str) -> list[Kernel]:
    return [kernel for kernel in backend.kernels()[0].kernels() if kernel.op == op]


def packed(backend: CpuBackend, weight: PackedWeight, dtype: str) -> PackedWeight:
    """A reference's dense weight as the backend packs it."""
    (rows, inner), host = weight.shape, numpy_dtype(dtype)
    biases = [np.asarray(weight.arrays["b"]).astype(host)] if "b" in weight.arrays else []
    spec = LinearSpec(("w",), (rows,), inner)
    return backend.packer.linear(spec, [np.asarray(weight.arrays["w"]).astype(host)], biases, dtype)


def on_device(backend: CpuBackend, arguments: Any, dtype: str) -> dict[str, Any]:
    """A case's arguments as the backend's arrays."""

    def leaf(value: Any, to: str) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return backend.runtime.put(value.astype(numpy_dtype(to)) if value.dtype == np.float64 else value)

    placed: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, PackedWeight):
            placed[name] = packed(backend, value, dtype)
        elif isinstance(value, AttentionSpec | RopeSpec):
            placed[name] = value
        else:
            to = "float32" if name in FLOAT32_ARGUMENTS else dtype
            placed[name] = tree_map(lambda x, to=to: leaf(x, to), value)
        if isinstance(value, Step):  # as the engine has them: the first columns of a wider table
            pages = {g: torch.nn.functional.pad(table, (0, 5), value=-1) for g, table in placed[name].pages.items()}
            narrow = {g: pages[g][:, : value.pages[g].shape[1]] for g in pages}
            placed[name] = dataclasses.replace(placed[name], pages=narrow)
    return placed


def request_of(case: OpCase, arguments: dict[str, Any]) -> OpRequest:
    """The case's request, with the weight as it was packed."""
    weight = arguments.get("w")
    if weight is None:
        return case.request
    facts = dict(case.request.facts) | {"key": weight.dispatch_key, "format": weight.format}
    return OpRequest.of(case.request.op, case.request.dtype, **facts)


def check(backend: CpuBackend, case: OpCase) -> None:
    spec, dtype = op_specs()[case.request.op], case.request.dtype
    expected = spec.reference(**case.arguments)
    arguments = on_device(backend, case.arguments, dtype)
    request = request_of(case, arguments)
    for kernel in kernels_of(backend, spec.name):
        assert kernel.supports(request) is None
        compare(case, expected, kernel.make(request, Ops())(**arguments))


def compare(case: OpCase, expected: Any, found: Any) -> None:
    if isinstance(expected, dict):  # the cache: only layer 0 is compared, page 0 is the sink
        for group, arrays in expected.items():
            for name in arrays:
                compare(case, arrays[name][:, 1:], found[group][name][:, 1:])
        return
    if isinstance(expected, tuple):
        for one, other in zip(expected, found, strict=True):
            compare(case, one, other)
        return
    tolerances = op_specs()[case.request.op].tolerances or REDUCTION
    tolerance, step = tolerances[case.request.dtype], case.arguments.get("step")
    actual = to_numpy(found).astype(np.float64)
    if step is not None and expected.shape[0] == step.shape.tokens:  # what padding computes is never read
        real = int(step.num_tokens[0])
        expected, actual = expected[:real], actual[:real]
    np.testing.assert_allclose(actual, expected, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)


OWN_OPS = sorted({kernel.op for kernel in NativeKernels(None, "not compiled").kernels()})


def specified_cases() -> Iterator[Any]:
    for op in OWN_OPS:
        generate = op_specs()[op].cases
        for dtype in DTYPES:
            for case in generate(np.random.default_rng(7), dtype) if generate else ():
                yield pytest.param(case, id=f"{op}-{dtype}-{case.label}")


@pytest.mark.parametrize("case", list(specified_cases()))
def test_a_kernel_computes_what_its_op_specifies(backend: CpuBackend, case: OpCase) -> None:
    check(backend, case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 25, 100])
def test_linear_at_every_number_of_rows(backend: CpuBackend, rows: int, dtype: str) -> None:
    rng = np.random.default_rng(rows)
    outer, inner = 77, 130  # neither fills its last panel or register
    weight = PackedWeight({"w": normal(rng, (outer, inner), dtype, inner**-0.5), "b": normal(rng, (outer,), dtype)},
                          "dense", (outer, inner))  # fmt: skip
    request = OpRequest.of("linear", dtype, key=weight.dispatch_key, format="dense")
    check(backend, OpCase("", request, {"x": normal(rng, (rows, inner), dtype), "w": weight}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_linear_does_not_depend_on_the_rest_of_the_batch(backend: CpuBackend, dtype: str) -> None:
    rng = np.random.default_rng(0)
    weight = packed(backend, PackedWeight({"w": normal(rng, (256, 96), dtype)}, "dense", (256, 96)), dtype)
    x = backend.runtime.put(normal(rng, (40, 96), dtype).astype(numpy_dtype(dtype)))
    request = OpRequest.of("linear", dtype, key=weight.dispatch_key, format=FORMAT)
    linear = kernels_of(backend, "linear")[0].make(request, Ops())
    together = linear(x, weight)
    for size in (1, 3, 7, 16):
        assert torch.equal(linear(x[:size], weight), together[:size])


def test_linear_reads_rows_that_lie_apart(backend: CpuBackend) -> None:
    rng = np.random.default_rng(1)
    weight = packed(backend, PackedWeight({"w": normal(rng, (32, 64), "float32")}, "dense", (32, 64)), "float32")
    wide = torch.randn(5, 192)
    linear = kernels_of(backend, "linear")[0].make(OpRequest.of("linear", "float32", key=1, format=FORMAT), Ops())
    torch.testing.assert_close(linear(wide[:, 64:128], weight), linear(wide[:, 64:128].contiguous(), weight))


def test_parts_of_a_weight_are_joined_across_panels(backend: CpuBackend) -> None:
    rng = np.random.default_rng(2)
    parts = [normal(rng, (rows, 16), "float32").astype(np.float32) for rows in (40, 24, 7)]
    spec = LinearSpec(("q", "k", "v"), (40, 24, 7), 16)
    weight = backend.packer.linear(spec, parts, (), "float32")
    linear = kernels_of(backend, "linear")[0].make(OpRequest.of("linear", "float32", key=1, format=FORMAT), Ops())
    x = torch.randn(3, 16)
    torch.testing.assert_close(linear(x, weight), x @ torch.from_numpy(np.concatenate(parts)).T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tied_head_shares_the_tables_memory(backend: CpuBackend, dtype: str) -> None:
    table = normal(np.random.default_rng(3), (50, 32), dtype).astype(numpy_dtype(dtype))
    embedding = backend.packer.embedding(EmbeddingSpec("e", 50, 32), table, dtype)
    head = backend.packer.tied(LinearSpec(("e",), (50,), 32, tied="e"), embedding)
    assert head.arrays["w"].data_ptr() == embedding.arrays["w"].data_ptr()
    request = OpRequest.of("embedding", dtype, key=head.dispatch_key, format=FORMAT)
    rows = kernels_of(backend, "embedding")[0].make(request, Ops())(
        torch.tensor([49, 0, 33], dtype=torch.int32), embedding
    )
    assert np.array_equal(to_numpy(rows), table[[49, 0, 33]])


def attention_case(
    rng: np.random.Generator, dtype: str, before: list[int], new: list[int], page_size: int, **facts: Any
) -> OpCase:
    """Attention over a cache in which every slot that may not be read holds NaN."""
    facts = {"q_heads": 4, "kv_heads": 2, "head_dim": 32, **facts}
    spec = AttentionSpec(group="g", scale=facts["head_dim"] ** -0.5, v_head_dim=facts["head_dim"], **facts)
    step, pages = draw_step(rng, before, new, page_size, "g", pad=2)
    shape = (2, pages, page_size, spec.kv_heads, spec.head_dim)
    group = {name: np.full(shape, np.nan) for name in ("k", "v")}
    for row, length in enumerate(np.asarray(step.kv_lens)):
        first = 0 if spec.window is None else max(0, before[row] - spec.window + 1)
        at = np.arange(first, length)
        page = np.asarray(step.pages["g"])[row, at // page_size]
        for array in group.values():
            array[1, page, at % page_size] = normal(rng, (len(at), spec.kv_heads, spec.head_dim), dtype)
    arguments = {
        "q": normal(rng, (step.shape.tokens, spec.q_heads, spec.head_dim), dtype),
        "cache": {"g": group}, "layer": 1, "step": step, "spec": spec,
    }  # fmt: skip
    return OpCase("", attention_request("paged_attention", dtype, spec, page_size, dtype), arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"window": 7},
        {"softcap": 4.0},
        {"head_dim": 16, "kv_heads": 4},
        {"head_dim": 80, "q_heads": 7, "kv_heads": 1},
        {"head_dim": 256, "window": 130, "softcap": 20.0},
        {"head_dim": 6, "q_heads": 1, "kv_heads": 1},
    ],
    ids=str,
)
def test_attention_over_a_mixed_batch(backend: CpuBackend, facts: dict[str, Any], page_size: int, dtype: str) -> None:
    rng = np.random.default_rng(11)
    check(backend, attention_case(rng, dtype, [0, 8, 0, 139, 30], [1, 5, 40, 1, 130], page_size, **facts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("facts", [{}, {"q_heads": 32, "kv_heads": 2}, {"window": 1100}], ids=str)
def test_attention_over_keys_split_between_threads(backend: CpuBackend, facts: dict[str, Any], dtype: str) -> None:
    check(backend, attention_case(np.random.default_rng(12), dtype, [1200, 600, 2], [1, 1, 1], 16, **facts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rope", [None, (32, False), (16, False), (32, True), (6, True)], ids=str)
@pytest.mark.parametrize("eps", [None, 1e-6])
def test_rope_and_cache(backend: CpuBackend, rope: tuple[int, bool] | None, eps: float | None, dtype: str) -> None:
    rng = np.random.default_rng(5)
    spec = AttentionSpec("g", 4, 2, 32, 32, 1.0, qk_norm_eps=eps, qk_norm_offset=0.5)
    if rope is not None:
        half = rope[0] // 2
        frequencies = RopeSpec(rope[0], tuple(100.0 ** (-np.arange(half) / half)), 1.1, rope[1])
        spec = dataclasses.replace(spec, rope=frequencies)
    step, pages = draw_step(rng, [18, 0, 5], [1, 9, 1], 4, "g", pad=3)
    qkv = normal(rng, (step.shape.tokens, 8, 32), dtype)
    arguments = {
        "q": qkv[:, :4], "k": qkv[:, 4:6], "v": qkv[:, 6:],
        "cache": {"g": {name: np.full((2, pages, 4, 2, 32), 7.0) for name in ("k", "v")}},
        "layer": 1, "step": step, "spec": spec,
        "angles": rope_angles(np.asarray(step.positions), spec.rope) if spec.rope else None,
        "q_norm": normal(rng, (32,), dtype) if eps else None, "k_norm": normal(rng, (32,), dtype) if eps else None,
    }  # fmt: skip
    check(backend, OpCase("", attention_request("rope_and_cache", dtype, spec, 4, dtype), arguments))


def test_attention_is_the_same_on_any_number_of_threads() -> None:
    case = attention_case(np.random.default_rng(6), "bfloat16", [700, 0, 30], [1, 70, 1], 16)
    results = []
    for threads in (1, 2, 3):
        backend = CpuBackend(threads, Native(threads), None)
        attention = kernels_of(backend, "paged_attention")[0].make(case.request, Ops())
        results.append(attention(**on_device(backend, case.arguments, "bfloat16"))[:72])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("vocab", [5, 128, 140, 250, 300, 4096 + 128, 20011])
def test_a_draw_is_the_references_wherever_the_vocabulary_ends(backend: CpuBackend, vocab: int) -> None:
    rng = np.random.default_rng(8)
    rows = 6
    logits = draw_logits(rng, rows, vocab)
    logits[5, vocab // 3 : vocab // 2] = -np.inf
    temperature, position = np.array([0.0, 1.0, 0.7, 2.0, 1e-2, 1.5]), rng.integers(0, 5000, rows).astype(np.int32)
    arguments = {
        "logits": logits,
        "temperature": temperature,
        "seed": clear_seeds(rng, logits, temperature, position),
        "position": position,
    }
    check(backend, OpCase("", OpRequest.of("sample", "float32", vocab=vocab), arguments))


@pytest.mark.parametrize(("bits", "apart"), [(uniform, 1), (block_uniform, BLOCK)])
def test_noise_next_to_one_is_finite_and_exact(backend: CpuBackend, bits: Any, apart: int) -> None:
    """Where u is within 2⁻²⁴ of 1, float32 has no such number, and a careless -log(-log u) is infinite.

    Candidates are the ids of one block, or those that are alone in a block.
    """
    count = 1 << 12
    seed, position = np.array([[5, 9]], np.int32), np.arange(count, dtype=np.int32)
    u = bits(seed.repeat(count, 0), position, BLOCK)
    row, highest = np.unravel_index(np.argmax(u), u.shape)
    noise = -np.log(-np.log(u[row]))
    logits = np.full((1, apart * BLOCK), -np.inf)
    logits[0, ::apart] = 0
    at = int(highest) * apart
    logits[0, at] = np.partition(noise, -2)[-2] - noise[highest] + 0.01  # wins by a hundredth if its noise is right
    arguments = {"logits": logits, "temperature": np.ones(1), "seed": seed, "position": position[row : row + 1]}
    sample = kernels_of(backend, "sample")[0].make(OpRequest.of("sample", "float32", vocab=logits.size), Ops())
    assert int(sample(**on_device(backend, arguments, "float32"))[0]) == at
    logits[0, at] -= 0.02
    assert int(sample(**on_device(backend, arguments, "float32"))[0]) != at


def test_refusals_say_what_is_wrong(backend: CpuBackend) -> None:
    spec = AttentionSpec("g", 4, 2, 32, 16, 1.0)
    alike = dataclasses.replace(spec, v_head_dim=32)
    requests = {
        "float16": OpRequest.of("rms_norm", "float16", size=4),
        "dense": OpRequest.of("linear", "float32", key=0, format="dense"),
        "cache": attention_request("paged_attention", "bfloat16", alike, 1, "float8_e5m2"),
        "one size": attention_request("paged_attention", "bfloat16", spec, 1, "bfloat16"),
    }
    for word, request in requests.items():
        (kernel,) = kernels_of(backend, request.op)
        assert word in (kernel.supports(request) or "")


def test_without_a_compiler_the_reference_serves_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BuildFailed, match=r"no-such-compiler is not there; install g\+\+"):
        library()
    bare = CpuBackend(1, None, "no compiler")
    assert [kernel.supports(OpRequest.of("argmax", "float32")) for kernel in kernels_of(bare, "argmax")] == [
        "no compiler"
    ]
    weight = bare.packer.linear(LinearSpec(("w",), (4,), 2), [np.ones((4, 2), np.float32)], (), "float32")
    assert weight.format == "dense"


def test_a_backend_that_lacks_its_native_kernels_warns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    create({}, Device(name="cpu"))
    create({"native": "off"}, Device(name="cpu"))  # as asked: no warning
    torch.set_num_threads(threads)
    (warning,) = caplog.messages
    assert "torch's serve instead, which are slower: CXX=no-such-compiler is not there; install g++" in warning


def test_a_cache_that_cannot_be_trusted_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_directory().is_relative_to(tmp_path)
    (fallback,) = tmp_path.iterdir()
    fallback.chmod(0o755)
    with pytest.raises(BuildFailed, match=rf"cannot keep native kernels in {fallback}: .*; set XDG_CACHE_HOME"):
        library()


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "bad-compiler"
    compiler.write_text("#!/bin/sh\necho 'error: no such option -march=native' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BuildFailed, match="bad-compiler failed: error: no such option"):
        library()
    assert not list((tmp_path / "zif" / "cpu").iterdir())


def test_threads_asked_for_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count("3") == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert thread_count() == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == usable_cores() <= (os.cpu_count() or 1)
    with pytest.raises(InvalidSettings, match=r"cpu\.threads=two"):
        thread_count("two")


def test_dtypes_that_are_not_packed_stay_dense(backend: CpuBackend) -> None:
    odd = backend.packer.linear(LinearSpec(("w",), (4,), 3), [np.ones((4, 3), np.float32)], (), "bfloat16")
    assert (odd.format, odd.arrays["w"].dtype) == ("dense", torch_dtype("bfloat16"))
