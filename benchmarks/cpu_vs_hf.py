"""zif's cpu backend against Hugging Face ``generate`` in one process, measurements taken in turns.

    python benchmarks/cpu_vs_hf.py --threads 2

Both run one model with the same random weights (bfloat16, the shape of Qwen3-0.6B unless told
otherwise) on the same number of threads. Prefill is the time to the first token of a prompt of 512;
decode the time from token to token, at batches of 1 and 8. The best of each side's tries is given as
well as the median, since what else a machine does can only make one slower; and the memory's read
bandwidth is taken beside every round, since that is what bounds decoding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "vocab_size": 151936},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 4096},
}
COMMON = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
Generate = Callable[[list[list[int]], int], tuple[list[list[int]], list[float]]]
"""(prompts of one length, new tokens) -> (tokens of each, seconds from the start to each token)."""


def hugging_face(config_path: Path) -> tuple[Generate, int]:
    """(generate, parameters) of the transformers model, with the weights that zif draws for the same config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, StoppingCriteria

    from zif.weights.dummy import DummyTensors

    config = AutoConfig.from_pretrained(config_path)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    drawn = DummyTensors("float32")
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(drawn.read(name, tuple(parameter.shape), "float32")))

    def generate(prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        ids = torch.tensor(prompts)
        moments: list[float] = []

        class Clock(StoppingCriteria):
            def __call__(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                moments.append(time.perf_counter() - start)
                return torch.zeros(len(tokens), dtype=torch.bool)

        start = time.perf_counter()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            do_sample=False, pad_token_id=0, stopping_criteria=[Clock()],
        )  # fmt: skip
        return [row[len(prompts[0]) :] for row in out.tolist()], moments

    return generate, sum(p.numel() for p in model.parameters())


def zif_engine(config_path: Path, threads: int) -> Generate:
    """The engine that ``zif serve`` and ``zif.LLM`` run, called directly."""
    from zif.messages import EngineRequest
    from zif.process.build import build_engine
    from zif.sampling.params import SamplingParams
    from zif.settings import Settings

    settings = Settings(
        model=str(config_path), load_format="dummy", device="cpu", device_opt=(f"cpu.threads={threads}",),
        disable_radix_cache=True, max_total_tokens=16384,
    )  # fmt: skip
    engine = build_engine(settings, progress=False)
    numbers = itertools.count()

    def generate(prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        start = time.perf_counter()
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        tokens: dict[str, list[int]] = {}
        for prompt in prompts:
            name = str(next(numbers))
            tokens[name] = []
            refused = engine.add(EngineRequest(name, prompt, params))
            assert refused is None, refused
        moments = []
        while engine.has_work:
            for output in engine.step():
                tokens[output.request_id] += output.token_ids
            moments.append(time.perf_counter() - start)
        return list(tokens.values()), moments[-new_tokens:]

    return generate


def read_bandwidth() -> float:
    """GB/s at which all threads together read a buffer that fits no cache."""
    import torch

    buffer = torch.ones(64 << 20)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        buffer.sum()
        times.append(time.perf_counter() - start)
    return buffer.nbytes / min(times) / 1e9


def measure(engines: dict[str, Generate], args: argparse.Namespace, vocab: int) -> dict[str, Any]:
    """Tokens a second of each engine, best and median, the engines taken in turns."""

    def prompts(count: int, length: int) -> list[list[int]]:
        return [[3 + (row * 7919 + i * 104729) % (vocab - 3) for i in range(length)] for row in range(count)]

    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in engines}
    bandwidth = []
    for round_number in range(args.rounds + 1):
        for name, generate in engines.items():
            bandwidth.append(read_bandwidth())
            taken = times[name] if round_number else defaultdict(list)  # the first round only warms up
            taken["prefill"].append(generate(prompts(1, args.prefill), 1)[1][0] / args.prefill)
            for batch in (1, 8):
                _, moments = generate(prompts(batch, 32), 1 + args.new_tokens)
                taken[f"decode batch {batch}"] += [(b - a) / batch for a, b in itertools.pairwise(moments)]
    return {
        "best": {name: {what: 1 / min(values) for what, values in taken.items()} for name, taken in times.items()},
        "median": {name: {what: 1 / median(values) for what, values in taken.items()} for name, taken in times.items()},
        "read_gb_per_second": [min(bandwidth), max(bandwidth)],
    }


def agreement(engines: dict[str, Generate], vocab: int) -> float:
    """Share of 32 prompts whose first token is the same in both: the two do compute one model."""
    lines = [[3 + (row * 613 + i * 7) % (vocab - 3) for i in range(24)] for row in range(32)]
    ours, theirs = (engines[name](lines, 1)[0] for name in ("zif", "hugging face"))
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens decoded a sequence")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    shape = SHAPES[args.shape]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(COMMON | shape))
        ours = zif_engine(Path(folder), args.threads)
        theirs, parameters = hugging_face(Path(folder))
    engines = {"zif": ours, "hugging face": theirs}
    report = {
        "shape": args.shape,
        "parameters": parameters,
        "threads": args.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "same_first_token": agreement(engines, shape["vocab_size"]),
        **measure(engines, args, shape["vocab_size"]),
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{args.shape}, {parameters / 1e6:.0f} M parameters, bfloat16, {args.threads} threads; "
          f"read bandwidth {report['read_gb_per_second'][0]:.0f} to {report['read_gb_per_second'][1]:.0f} GB/s; "
          f"same first token in {report['same_first_token']:.0%} of prompts")  # fmt: skip
    for kind in ("best", "median"):
        print(f"\n{kind + ', tokens/s':18}{'zif':>10}{'hugging face':>15}{'ratio':>8}")
        for what, mine in report[kind]["zif"].items():
            other = report[kind]["hugging face"][what]
            print(f"{what:18}{mine:10.1f}{other:15.1f}{mine / other:8.2f}")


if __name__ == "__main__":
    main()
