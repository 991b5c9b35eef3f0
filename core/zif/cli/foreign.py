"""Flags of vLLM, SGLang and llama.cpp that zif has no name for: what to do instead of each."""

from __future__ import annotations

ALIASES: dict[str, tuple[str, ...]] = {
    "model": ("--model-path",),
    "tokenizer_path": ("--tokenizer",),
    "context_length": ("--max-model-len", "--ctx-size"),
    "tp_size": ("--tensor-parallel-size",),
    "mem_fraction_static": ("--gpu-memory-utilization",),
    "max_running_requests": ("--max-num-seqs",),
    "chunked_prefill_size": ("--max-num-batched-tokens",),
    "page_size": ("--block-size",),
    "served_model_name": ("--alias",),
}
"""Other servers' names of settings that mean the same, by zif's name of the setting."""

_LAYERS = "a model is on one --device as a whole, or on several with --tp-size: leave it out"
_GRAPHS = "a device that captures graphs has an option for it (--device-opt; `zif devices --json` lists them)"
_THREADS = "--device-opt cpu.threads=N"
_TLS = "zif speaks plain HTTP: put a proxy that speaks TLS before it"
_PARSERS = "zif does not parse tool calls or reasoning yet: leave it out"
_ONE_ENGINE = "zif runs one engine: start one server for each replica"
ADVICE: dict[str, str] = {
    "--trust-remote-code": "zif runs no code of checkpoints: leave it out",
    "--quantization": "how a checkpoint is quantized is read from its own files: leave it out",
    "--hf-overrides": "edit config.json",
    "--enforce-eager": _GRAPHS,
    "--no-enable-prefix-caching": "--disable-radix-cache",
    "--enable-prefix-caching": "prefixes are cached unless --disable-radix-cache is given: leave it out",
    "--enable-chunked-prefill": "prompts are always taken in chunks (--chunked-prefill-size): leave it out",
    "--pipeline-parallel-size": "layers are shared with --tp-size alone",
    "--pp-size": "layers are shared with --tp-size alone",
    "--data-parallel-size": _ONE_ENGINE,
    "--dp-size": _ONE_ENGINE,
    "--attention-backend": "--kernel paged_attention=NAME; `zif devices --ops DEVICE` lists the names",
    "--sampling-backend": "--kernel sample=NAME; `zif devices --ops DEVICE` lists the names",
    "--swap-space": "nothing is swapped: leave it out",
    "--cpu-offload-gb": _LAYERS,
    "--n-gpu-layers": _LAYERS,
    "--gpu-layers": _LAYERS,
    "-ngl": _LAYERS,
    "--threads": _THREADS,
    "-t": _THREADS,
    "-c": "--context-length N",
    "-m": "--model DIRECTORY",
    "-tp": "--tp-size N",
    "-np": "--max-running-requests N",
    "--parallel": "--max-running-requests N",
    "--batch-size": "--chunked-prefill-size N",
    "--ubatch-size": "--chunked-prefill-size N",
    "--mlock": "leave it out",
    "--no-mmap": "leave it out",
    "--jinja": "chat templates are always used: leave it out",
    "--hf-repo": "name the model by its id, as in `zif serve Qwen/Qwen3-0.6B`",
    "--download-dir": "set HF_HOME",
    "--tool-call-parser": _PARSERS,
    "--enable-auto-tool-choice": _PARSERS,
    "--reasoning-parser": _PARSERS,
    "--disable-log-requests": "--no-access-log",
    "--uvicorn-log-level": "--log-level",
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--enable-lora": "adapters are not served yet: merge them into the model",
    "--lora-paths": "adapters are not served yet: merge them into the model",
    "--speculative-config": "there are no draft models yet: leave it out",
    "--speculative-algorithm": "there are no draft models yet: leave it out",
    "--seed": "--random-seed N",
}
"""What to give instead, or why to leave it out."""
