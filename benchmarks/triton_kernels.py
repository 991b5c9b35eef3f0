"""Each portable Triton kernel on a real device, beside torch and the time its bytes or operations take at least.

    python benchmarks/triton_kernels.py --device cuda --model llama-8b --json kernels.json

The floor is in the same run's own units: bytes at the bandwidth of a large copy, or, for the ragged
steps, operations at the rate of a large bfloat16 product. torch is the reference kernel, or for attention
``scaled_dot_product_attention`` over keys and values that lie side by side, which paging forbids. The
device's second-level cache is emptied before every call. ``differs`` is the largest difference of the two
results, or how many integers are not the same. ``--processors`` and ``--shared`` are the device's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from triton.testing import do_bench

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.ops.attention import attention_request
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape
from zif.portable.triton import Machine, TritonKernels
from zif.reference.torch import TorchReference

Tensor = torch.Tensor


@dataclass(frozen=True)
class Model:
    """Sizes of a dense model."""

    hidden: int
    inner: int
    q_heads: int
    kv_heads: int
    head_dim: int
    vocab: int


MODELS = {
    "qwen3-0.6b": Model(1024, 3072, 16, 8, 128, 151936),
    "llama-8b": Model(4096, 14336, 32, 8, 128, 128256),
}
PAGE = 16


@dataclass(frozen=True)
class Case:
    """One call: ours, torch's, and what it moves and computes at least."""

    kernel: str
    shape: str
    ours: Callable[[], Any]
    torch: Callable[[], Any]
    bytes: float
    flops: float = 0.0


@dataclass(frozen=True)
class Line:
    kernel: str
    shape: str
    us: float
    torch_us: float
    floor_us: float
    differs: float

    def __str__(self) -> str:
        of_floor = self.floor_us / self.us
        return (
            f"{self.kernel:18} {self.shape:28} {self.us:9.1f} {self.torch_us:9.1f} {self.floor_us:9.1f} "
            f"{of_floor:7.0%} {self.differs:9.2g}"
        )


class Bench:
    """Cases of one model on one device."""

    def __init__(self, model: Model, device: str, machine: Machine) -> None:
        self.model, self.device = model, device
        self.ours, self.reference = TritonKernels(machine), TorchReference()

    def ints(self, *values: Any) -> Tensor:
        return torch.tensor(*values, dtype=torch.int32, device=self.device)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=self.device)

    def both(self, op: str, shape: str, moved: float, *arguments: Any) -> Case:
        ours, reference = getattr(self.ours, op), getattr(self.reference, op)
        return Case(op, shape, lambda: ours(*arguments), lambda: reference(*arguments), moved)

    def spec(self) -> AttentionSpec:
        m = self.model
        rope = RopeSpec(m.head_dim, tuple(1e6 ** (-2 * i / m.head_dim) for i in range(m.head_dim // 2)))
        return AttentionSpec(
            "g", m.q_heads, m.kv_heads, m.head_dim, m.head_dim, m.head_dim**-0.5, rope=rope, qk_norm_eps=1e-6
        )

    def step(self, seqs: int, new: int, length: int) -> tuple[Step, dict[str, dict[str, Tensor]]]:
        """``seqs`` sequences of ``length``, their last ``new`` tokens in the step, on shuffled pages."""
        width = -(-length // PAGE)
        pages = 1 + torch.randperm(seqs * width, device=self.device).int().reshape(seqs, width)
        tokens = seqs * new
        positions = torch.arange(length - new, length, device=self.device).int().repeat(seqs)
        of_token = torch.arange(seqs, device=self.device).int().repeat_interleave(new)
        starts = torch.arange(0, tokens + 1, new, device=self.device).int()
        step = Step(
            positions, positions, of_token, starts, self.ints([length] * seqs), {"g": pages}, self.ints([tokens]),
            starts[1:] - 1, StepShape(tokens, seqs, width, seqs, decode=new == 1),
        )  # fmt: skip
        shape = (1, 1 + seqs * width, PAGE, self.model.kv_heads, self.model.head_dim)
        return step, {"g": {"k": self.normal(*shape), "v": self.normal(*shape)}}

    def layers(self, tokens: int) -> Iterator[Case]:
        m, row = self.model, 2.0 * tokens
        x, residual, weight = self.normal(tokens, m.hidden), self.normal(tokens, m.hidden), self.normal(m.hidden)
        yield self.both("rms_norm", f"{tokens} x {m.hidden}", 2 * row * m.hidden, x, weight, 1e-6)

        def add_then_norm() -> tuple[Tensor, Tensor]:
            total = x + residual
            return self.reference.rms_norm(total, weight, 1e-6), total

        shape = f"{tokens} x {m.hidden}"
        ours = partial(self.ours.add_norm, x, residual, weight, 1e-6)
        yield Case("add_norm", shape, ours, add_then_norm, 4 * row * m.hidden)
        gate_up = self.normal(tokens, 2 * m.inner)
        yield self.both("gated_activation", f"{tokens} x {m.inner}", 3 * row * m.inner, gate_up, "silu")
        spec = self.spec()
        assert spec.rope is not None
        step, cache = self.step(tokens, 1, 64)
        yield self.both("rope_angles", f"{tokens} x {m.head_dim}", 4.0 * tokens * m.head_dim, step.positions, spec.rope)
        angles = self.ours.rope_angles(step.positions, spec.rope)
        qkv = self.normal(tokens, (m.q_heads + 2 * m.kv_heads) * m.head_dim)
        sizes = [m.q_heads * m.head_dim, m.kv_heads * m.head_dim, m.kv_heads * m.head_dim]
        q, k, v = (part.unflatten(-1, (-1, m.head_dim)) for part in qkv.split(sizes, dim=-1))
        norm = self.normal(m.head_dim)
        moved = 2 * row * qkv.shape[1] + 4.0 * tokens * m.head_dim

        def apart() -> Tensor:
            turned = [self.reference.rope(self.reference.rms_norm(x, norm, 1e-6), angles) for x in (q, k)]
            self.reference.kv_write(turned[1], v, cache, 0, step, spec)
            return turned[0]

        def fused() -> Tensor:
            return self.ours.rope_and_cache(q, k, v, cache, 0, step, spec, angles, norm, norm)[0]

        yield Case("rope_and_cache", f"{tokens} x {qkv.shape[1]}", fused, apart, moved)
        yield self.both("kv_write", f"{tokens} tokens", 2 * row * 2 * sizes[1], k, v, cache, 0, step, spec)

    def attention(self, seqs: int, new: int, length: int) -> Case:
        m, spec = self.model, self.spec()
        step, cache = self.step(seqs, new, length)
        q = self.normal(seqs * new, m.q_heads, m.head_dim)
        request = attention_request("paged_attention", "bfloat16", spec, PAGE, "bfloat16")
        attend = self.ours.paged_attention(request, Ops())
        k, v = (cache["g"][name][0][step.pages["g"]].flatten(1, 2)[:, :length].transpose(1, 2) for name in ("k", "v"))
        dense_q = q.unflatten(0, (seqs, new)).transpose(1, 2)

        def dense() -> Tensor:
            out = F.scaled_dot_product_attention(dense_q, k, v, is_causal=new > 1, scale=spec.scale, enable_gqa=True)
            return out.transpose(1, 2).flatten(0, 1)

        moved = 4.0 * seqs * length * m.kv_heads * m.head_dim + 4.0 * q.numel()
        pairs = seqs * (new * length - new * (new - 1) / 2)
        assert new in (1, length), "torch's causal mask is that of a whole prompt"
        name = "decode" if new == 1 else "ragged"
        flops = 4.0 * pairs * m.q_heads * m.head_dim
        return Case(name, f"{seqs} x {new} of {length}", partial(attend, q, cache, 0, step, spec), dense, moved, flops)

    def sampling(self, rows: int) -> Iterator[Case]:
        vocab = self.model.vocab
        logits = 4 * self.normal(rows, vocab, dtype=torch.float32)
        ones, shape, line = torch.ones(rows, device=self.device), f"{rows} x {vocab}", 4.0 * rows * vocab
        seed, position = self.ints([[7, row] for row in range(rows)]), self.ints([5] * rows)
        yield self.both("argmax", shape, line, logits)
        yield self.both("sample", shape, line, logits, 0.6 * ones, seed, position)
        for label, k, p in (("top-k 20, top-p 0.95", 20, 0.95), ("top-p 0.9", 0, 0.9)):
            settings = (0.6 * ones, self.ints([k] * rows), p * ones, 0 * ones)
            yield self.both("filter_logits", f"{shape}, {label}", 2 * line, logits, *settings)
        counts, prompt = torch.randint(0, 2, (2, rows, vocab), dtype=torch.int32, device=self.device)
        moved = line * (2 + 1 + 0.25)
        yield self.both("penalize", shape, moved, logits, counts, prompt.bool(), 1.1 * ones, ones, ones)
        yield self.both("logprobs", f"{shape}, top 5", line, logits, self.ints([3] * rows), 5)

    def cases(self) -> Iterator[Case]:
        for tokens in (1, 256, 8192):
            yield from self.layers(tokens)
        for seqs, new, length in ((1, 1, 1024), (1, 1, 32768), (32, 1, 2048), (256, 1, 1024), (8, 2048, 2048)):
            yield self.attention(seqs, new, length)
        for rows in (1, 256):
            yield from self.sampling(rows)


def differs(ours: Any, torchs: Any) -> float:
    """The largest difference among floats; how many integers are not the same."""
    pairs = zip(ours, torchs, strict=True) if isinstance(ours, tuple) else [(ours, torchs)]
    worst = 0.0
    for one, other in pairs:
        if not isinstance(one, Tensor):
            continue
        if one.is_floating_point():
            far = (one.float() - other.float()).abs()
            worst = max(worst, float(torch.where(one == other, 0.0, far).max()) if far.numel() else 0.0)
        else:
            worst += float((one != other).sum())
    return worst


def ceilings(device: str) -> tuple[float, float]:
    """Bytes a second of a large copy, read and written; operations a second of a large product."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2.0 * source.numel() / (do_bench(lambda: target.copy_(source)) * 1e-3)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)
    return copy, 2.0 * 8192**3 / (do_bench(lambda: a @ a) * 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True, help="torch's name for the device")
    parser.add_argument("--model", choices=MODELS, default="llama-8b")
    parser.add_argument("--processors", type=int, default=132)
    parser.add_argument("--shared", type=int, default=232448)
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    bandwidth, rate = ceilings(options.device)
    print(f"{options.model} on {options.device}: copy {bandwidth / 1e12:.2f} TB/s, product {rate / 1e12:.0f} TFLOP/s")
    print(f"{'kernel':18} {'shape':28} {'us':>9} {'torch us':>9} {'floor us':>9} {'floor':>7} {'differs':>9}")
    bench = Bench(MODELS[options.model], options.device, Machine(options.processors, options.shared))
    lines = []
    with torch.inference_mode():
        for case in bench.cases():
            if options.only not in case.kernel:
                continue
            difference = differs(case.ours(), case.torch())
            microseconds = [1e3 * do_bench(call, return_mode="median") for call in (case.ours, case.torch)]
            floor = 1e6 * max(case.bytes / bandwidth, case.flops / rate)
            lines.append(Line(case.kernel, case.shape, *microseconds, floor, difference))
            print(lines[-1], flush=True)
    if options.json:
        report = {"bandwidth": bandwidth, "product": rate, "lines": [asdict(line) for line in lines]}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
