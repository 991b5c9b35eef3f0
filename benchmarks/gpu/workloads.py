"""The workloads, token by token, for zif and for peers alike: the same ids everywhere, and no engine imported.

A turn is a list of prompts and how many tokens each is to be continued by. Later turns have fresh ids, so that no
prefix cache can help.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HIGHEST_ID = 10000
COMMON = {"max_position_embeddings": 4096, "hidden_act": "silu", "head_dim": 128, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": COMMON
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
       "num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 151936, "rms_norm_eps": 1e-6,
       "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "llama-3.1-8b": COMMON
    | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
       "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128256, "rms_norm_eps": 1e-5,
       "rope_theta": 500000.0, "tie_word_embeddings": False},
}  # fmt: skip


class Turn(NamedTuple):
    """Prompts, the output length of each, and the temperature of all."""

    prompts: list[list[int]]
    lengths: list[int]
    temperature: float = 0.6

    @property
    def tokens_in(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def tokens_out(self) -> int:
        return sum(self.lengths)


def offline() -> list[Turn]:
    """256 requests, in and out uniform in [100, 1024], T = 0.6: two turns of the same lengths."""
    rng, fresh = random.Random(0), random.Random(1)
    first = [_ids(rng, rng.randint(100, 1024)) for _ in range(256)]
    lengths = [rng.randint(100, 1024) for _ in range(256)]
    second = [_ids(fresh, len(prompt)) for prompt in first]
    return [Turn(first, lengths), Turn(second, lengths)]


def single() -> list[Turn]:
    """One request, 256 in and 256 out, greedy: three turns."""
    rng = random.Random(0)
    return [Turn([_ids(rng, 256)], [256], 0.0) for _ in range(3)]


def prefill() -> list[Turn]:
    """32 prompts of 2048 tokens, one token out: three turns."""
    rng = random.Random(0)
    return [Turn([_ids(rng, 2048) for _ in range(32)], [1] * 32) for _ in range(3)]


def shared() -> list[Turn]:
    """2,048 tokens that all requests share and 64 of each one's own, 64 out: 16 requests to warm up, then 256."""
    rng = random.Random(0)
    turns = []
    for count in (16, 256):
        prefix = _ids(rng, 2048)
        turns.append(Turn([prefix + _ids(rng, 64) for _ in range(count)], [64] * count))
    return turns


WORKLOADS = {"offline": offline, "single": single, "prefill": prefill, "shared": shared}


def write_config(shape: str, *, tokenizer: bool = False, **changes: Any) -> Path:
    """A new directory with a shape's ``config.json`` and maybe a tokenizer; weights are to be random."""
    directory = Path(tempfile.mkdtemp(prefix=f"{shape}-"))
    (directory / "config.json").write_text(json.dumps(SHAPES[shape] | {"dtype": "bfloat16"} | changes))
    if tokenizer:
        _write_tokenizer(directory, SHAPES[shape]["vocab_size"])
    return directory


def _write_tokenizer(directory: Path, size: int) -> None:
    """A byte-level tokenizer of ``size`` tokens: the 256 bytes, then made-up words."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {character: at for at, character in enumerate(sorted(ByteLevel.alphabet()))}
    number = 0
    while len(vocab) < size:
        word, rest = "Ġ", number
        while rest or word == "Ġ":
            word, rest = word + "etaoinshrdlu"[rest % 12], rest // 12
        vocab[f"{word}x"] = len(vocab)
        number += 1
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []},
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(content))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randint(0, HIGHEST_ID) for _ in range(count)]


def say(part: str, **figures: Any) -> None:
    """Print a line of JSON."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def say_turn(part: str, engine: str, shape: str, number: int, turn: Turn, seconds: float, **more: Any) -> None:
    """Print what a turn took: the lines that ``peers.py compare`` reads."""
    total = turn.tokens_in + turn.tokens_out
    say(part, engine=engine, shape=shape, turn=number, seconds=seconds, in_tok_s=turn.tokens_in / seconds,
        out_tok_s=turn.tokens_out / seconds, total_tok_s=total / seconds, **more)  # fmt: skip
