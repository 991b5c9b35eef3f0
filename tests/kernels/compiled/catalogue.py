"""Every kernel as it is launched for a model of a common shape, compiled for a device that is not there.

Tensors are on torch's meta device: what a launcher would have launched is compiled instead, with the
types and the alignment that Triton would have found in its arguments.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.ops.attention import attention_request
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape
from zif.portable.triton import Launch, Machine, TritonKernels
from zif.portable.triton.layers import SplitSum, unnormed
from zif.portable.triton.linear import Tile, product

DTYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64",
    torch.bool: "i1", torch.float8_e4m3fn: "fp8e4nv",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Target:
    """A device kind: Triton's name for it, what its kernels are tuned by, and its matrix instruction.

    ``overlap``: kernels may start while those before them run.
    """

    gpu: GPUTarget
    machine: Machine
    matrix: str
    overlap: bool = False


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), Machine(108, 166912), "mma.sync"),
    "sm_90": Target(GPUTarget("cuda", 90, 32), Machine(132, 232448), "wgmma", overlap=True),
    "sm_100": Target(GPUTarget("cuda", 100, 32), Machine(148, 232448), "tcgen05.mma", overlap=True),
    "gfx90a": Target(GPUTarget("hip", "gfx90a", 64), Machine(104, 65536), "v_mfma"),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), Machine(304, 65536), "v_mfma"),
    "gfx950": Target(GPUTarget("hip", "gfx950", 64), Machine(256, 163840), "v_mfma"),
}


@dataclass(frozen=True)
class Compiled:
    """One compiled kernel: its name, its assembly, bytes of shared memory, bytes or registers spilled."""

    name: str
    assembly: str
    shared: int
    spilled: int


def compiler(target: Target, found: list[Compiled]) -> Launch:
    """A launch that compiles instead."""

    def compile_it(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        assert all(extent > 0 for extent in grid)
        options = {"enable_fp_fusion": True} | {name: constants.pop(name) for name in OPTIONS if name in constants}
        constants["OVERLAP"] = target.overlap
        signature: dict[str, str] = {}
        aligned: dict[tuple[int], Any] = {}
        given = iter(arguments)
        for position, name in enumerate(kernel.arg_names):
            if name in constants:
                signature[name] = "constexpr"
                continue
            value = next(given)
            free = name not in (kernel.do_not_specialize or ())
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + DTYPES[value.dtype]
                aligned[position,] = ALIGNED
            elif isinstance(value, float):
                signature[name] = "fp32"
            elif value == 1 and free:
                signature[name], constants[name] = "constexpr", 1
            else:
                signature[name] = "i32" if abs(value) < 2**31 else "i64"
                if value % 16 == 0 and free:
                    aligned[position,] = ALIGNED
        assert not list(given), f"{kernel.__name__}: too many arguments"
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
        made = triton.compile(source, target=target.gpu, options=options)
        assembly = made.asm["ptx" if target.gpu.backend == "cuda" else "amdgcn"]
        found.append(Compiled(kernel.__name__, assembly, made.metadata.shared, _spilled(target, made.asm)))

    return compile_it


def _spilled(target: Target, asm: dict[str, Any]) -> int:
    """Registers spilled (AMD's vector ones), or bytes of local memory (NVIDIA)."""
    if target.gpu.backend == "hip":
        return int(re.findall(r"\.vgpr_spill_count:\s*(\d+)", asm["amdgcn"])[0])
    tool = Path(triton.knobs.nvidia.cuobjdump.path)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, check=True)
    return sum(int(n) for n in re.findall(rb"(?:LOCAL|STACK):(\d+)", usage.stdout))


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.int32)


def reals(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.float32)


def step(tokens: int, seqs: int, pages: int, *, decode: bool) -> Step:
    """A step of meta tensors."""
    shape = StepShape(tokens, seqs, pages, seqs, decode)
    tables = {"g": ints(seqs, pages)}
    starts, lens = ints(seqs + 1), ints(seqs)
    return Step(ints(tokens), ints(tokens), ints(tokens), starts, lens, tables, ints(1), ints(seqs), shape)


def layer_calls(kernels: TritonKernels) -> None:
    """A dense model's layer, hidden 4096, 32 query heads over 8 of size 128."""
    kernels.rms_norm(meta(256, 4096), meta(4096), 1e-6)
    kernels.add_norm(meta(256, 4096), meta(256, 4096), meta(4096), 1e-6)
    for kind in ("silu", "gelu_tanh"):
        kernels.gated_activation(meta(256, 28672), kind)
    kernels.softcap(reals(8, 128256), 30.0)
    spec = attention_spec(128)
    assert spec.rope is not None
    angles = meta(256, 128, dtype=torch.float32)
    launched = replace(spec.rope, inv_freq=spec.rope.inv_freq)
    kernels.rope_angles(ints(256), launched)
    kernels.rope(meta(256, 32, 128), angles)
    q, k, v = (meta(256, 48 * 128)[:, a:b].view(256, -1, 128) for a, b in ((0, 4096), (4096, 5120), (5120, 6144)))
    decode = step(256, 256, 128, decode=True)
    kernels.rope_and_cache(q, k, v, cache(128), 1, decode, spec, angles, meta(128), meta(128))
    kernels.kv_write(k, v, cache(128), 1, decode, spec)


def linear_calls(kernels: TritonKernels) -> None:
    """Products of one token and of few, of a model's four kinds, and what takes a sum in parts."""
    launch, few = kernels._launch, Tile(64, 64, 64, stages=4 if kernels.machine.shared_bytes > 2**17 else 2)
    for tile in (Tile(1, 4, 1024), few, replace(few, weights_first=False), replace(few, tokens=16, outputs=32)):
        x, w = meta(1 if tile.tokens == 1 else 40, 4096), meta(6144, 4096)
        product(launch, replace(tile, early=256), x, w, meta(6144), None, torch.float32)
        if tile.weights_first and tile.tokens != 16:
            product(launch, tile, x, w, None, "silu", torch.bfloat16)
    many = replace(few, tokens=128)
    product(launch, replace(many, weights_first=False), meta(200, 4096), meta(6144, 4096), None, None, torch.bfloat16)
    product(launch, replace(many, warps=8), meta(90, 4096), meta(6144, 4096), None, "silu", torch.bfloat16)
    product(launch, replace(few, splits=4), meta(40, 4096), meta(6144, 4096), None, None, torch.bfloat16)
    parts: Any = SplitSum(reals(4, 40, 4096), torch.bfloat16)
    kernels.rms_norm(parts, meta(4096), 1e-6)
    kernels.add_norm(parts, meta(40, 4096), meta(4096), 1e-6)
    kernels.add(parts, meta(40, 4096))
    later: Any = unnormed(SplitSum(reals(2, 1, 4096), torch.bfloat16), meta(1, 4096), meta(4096), 1e-6, 0.0)
    for gate in (None, "silu"):
        product(launch, Tile(1, 4, 2048, warps=8), later, meta(6144, 4096), None, gate, torch.bfloat16)


def attention_spec(head_dim: int, **facts: Any) -> AttentionSpec:
    rope = RopeSpec(head_dim, tuple(1e4 ** (-i / head_dim) for i in range(head_dim // 2)))
    return AttentionSpec("g", 32, 8, head_dim, head_dim, head_dim**-0.5, rope=rope, qk_norm_eps=1e-6, **facts)


def cache(head_dim: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, dict[str, torch.Tensor]]:
    return {"g": {name: meta(4, 1000, 16, 8, head_dim, dtype=dtype) for name in ("k", "v")}}


def attention_calls(head_dim: int, **facts: Any) -> Callable[[TritonKernels], None]:
    """Decode of many and of one, which is split, a ragged step, and one that may begin with many that decode."""

    def calls(kernels: TritonKernels) -> None:
        spec = attention_spec(head_dim, **facts)
        attend = kernels.paged_attention(attention_request("paged_attention", "bfloat16", spec, 16, "bfloat16"), Ops())
        for tokens, seqs, decode in ((256, 256, True), (1, 1, True), (2048, 8, False), (2048, 64, False)):
            shape = step(tokens, seqs, 128, decode=decode)
            attend(meta(tokens, 32, head_dim), cache(head_dim), 0, shape, spec)

    return calls


def eight_bit_calls(kernels: TritonKernels) -> None:
    """Writing and reading a cache of eight bits."""
    spec, dtype = attention_spec(128), torch.float8_e4m3fn
    attend = kernels.paged_attention(attention_request("paged_attention", "bfloat16", spec, 16, "float8_e4m3fn"), Ops())
    for tokens, seqs, decode in ((256, 256, True), (2048, 8, False)):
        shape, kept = step(tokens, seqs, 128, decode=decode), cache(128, dtype)
        kernels.kv_write(meta(tokens, 8, 128), meta(tokens, 8, 128), kept, 0, shape, spec)
        attend(meta(tokens, 32, 128), kept, 0, shape, spec)
    q, k, v, decode = meta(8, 32, 128), meta(8, 8, 128), meta(8, 8, 128), step(8, 8, 128, decode=True)
    kept, angles, weights = cache(128, dtype), reals(8, 128), meta(128)
    kernels.rope_and_cache(q, k, v, kept, 0, decode, spec, angles, weights, weights)


def sampling_calls(kernels: TritonKernels) -> None:
    logits, rows = reals(8, 151936), reals(8)
    kernels.argmax(logits)
    kernels.sample(logits, rows, ints(8, 2), ints(8))
    kernels.filter_logits(logits, rows, ints(8), rows, rows)
    kernels.penalize(logits, ints(8, 151936), meta(8, 151936, dtype=torch.bool), rows, rows, rows)
    kernels.logprobs(logits, ints(8), 5)
    for random in (False, True):
        kernels.sample_rows(logits, ints(8), reals(257), ints(257, 2), ints(257), ints(257), random)


def table_calls(kernels: TritonKernels) -> None:
    """Of one request and of many, with page tables of two cache groups."""
    pages, factors = {"full": ints(257, 64), "window": ints(257, 256)}, {"full": 4, "window": 1}
    for seqs in (1, 256):
        ids = {group: ints(seqs) for group in pages}
        of_seqs = (ints(seqs), ints(seqs))
        kernels.decode_inputs(*of_seqs, ints(257), ints(257), pages, *of_seqs, ids, 256, factors)
    of_tokens = (ints(512), ints(512))
    kernels.mixed_inputs(ints(16), *of_tokens, ints(17), ints(1), ints(257), ints(257), pages, 256, factors)


CALLS = {
    "layers": layer_calls,
    "linears": linear_calls,
    "attention": attention_calls(128),
    "attention, window and soft cap": attention_calls(128, window=512, softcap=50.0),
    "attention of heads of 64": attention_calls(64),
    "attention of heads of 256": attention_calls(256),
    "attention, eight bits": eight_bit_calls,
    "sampling": sampling_calls,
    "table": table_calls,
}


def compiled(target: Target, calls: str) -> Iterator[Compiled]:
    """What the calls of that name launch."""
    found: list[Compiled] = []
    CALLS[calls](TritonKernels(target.machine, compiler(target, found)))
    yield from found
