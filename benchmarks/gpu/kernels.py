"""Are the kernels right, and how near to the memory's speed is attention?"""

from __future__ import annotations

from itertools import product

import torch

import zif
from gpu.measuring import timed
from gpu.workloads import say
from zif.sampling.params import SamplingParams


def parity() -> None:
    """Greedy tokens in float32, where cpu and cuda can be expected to agree to the last one; most prompts join many"""
    prompts = ["Once upon a time", "The little dog", "In the morning, Anna", "A", "They went to the river and"] * 12
    params = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)
    for dtype in ("float32", "bfloat16"):
        found = {}
        for device, options in (("cpu", ()), ("cuda", ()), ("cuda", ("cuda.graphs=off",))):
            common = {"dtype": dtype, "random_seed": 0, "max_total_tokens": 8192, "chunked_prefill_size": 32}
            with zif.LLM(device=device, device_opt=options, progress=False, **common) as llm:
                done = llm.generate(prompts, params)
            found[device, options] = [list(completion.choices[0].token_ids) for completion in done]
        cpu, graphs, eager = found.values()
        agree = sum(a == b for x, y in zip(cpu, graphs, strict=True) for a, b in zip(x, y, strict=True))
        say("parity", dtype=dtype, graphs_equal_eager=graphs == eager, equal_to_cpu=cpu == graphs,
            tokens_equal_to_cpu=agree / sum(map(len, cpu)))  # fmt: skip


def kernels() -> None:
    """Attention of 32 query and 8 kv heads of 128, pages of 16, in bf16; keys and values in bf16 and in eight bits"""
    from zif.contract.arrays import dtype_bytes
    from zif.contract.attention import AttentionSpec
    from zif.contract.binding import candidates
    from zif.contract.ops.attention import attention_request
    from zif.contract.optable import Ops
    from zif.contract.step import Step, StepShape
    from zif.plugins import select
    from zif.reference.torch.runtime import torch_dtype

    backend = select("cuda").create_backend()
    cases = ((256, 1024, 1), (32, 4096, 1), (1, 1024, 1), (1, 4096, 1), (8, 2048, 2048))
    for (seqs, length, query), stored in product(cases, ("bfloat16", "float8_e4m3fn")):
        spec = AttentionSpec(group="g", q_heads=32, kv_heads=8, head_dim=128, v_head_dim=128, scale=128**-0.5)
        request = attention_request("paged_attention", "bfloat16", spec, 16, stored)
        pages = seqs * length // 16
        make = {"dtype": torch.bfloat16, "device": "cuda"}
        size = dtype_bytes(stored)
        cache = {"g": {name: torch.randn(1, pages, 16, 8, 128, **make).to(torch_dtype(stored)) for name in "kv"}}
        table = torch.randperm(pages, device="cuda").int().reshape(seqs, -1)
        decode = query == 1
        tokens = seqs * query
        ints = {"dtype": torch.int32, "device": "cuda"}
        step = Step(
            tokens=None, positions=None, seqs=torch.arange(seqs, **ints).repeat_interleave(query),
            query_starts=torch.arange(seqs + 1, **ints) * query, kv_lens=torch.full((seqs,), length, **ints),
            pages={"g": table}, num_tokens=torch.tensor([tokens], **ints), logits_at=None,
            shape=StepShape(tokens, seqs, table.shape[1], seqs, decode),
        )  # fmt: skip
        q = torch.randn(tokens, 32, 128, **make)
        for one in candidates(backend.kernels()):
            if one.op != "paged_attention" or one.provider == "torch_reference":
                continue
            refusal = one.supports(request)
            if refusal is not None:
                say("kernels", kernel=str(one), cache=stored, refused=refusal)
                continue
            run = one.make(request, Ops())
            ms = timed(lambda: run(q, cache, 0, step, spec))  # noqa: B023
            figures = {"us": ms * 1e3, "tb_s": 2 * seqs * length * 8 * 128 * size / ms / 1e9}
            if not decode:
                figures["tflop_s"] = 4 * seqs * length * length * 32 * 128 / 2 / ms / 1e9
            say("kernels", kernel=str(one), cache=stored, seqs=seqs, length=length, query=query, **figures)
