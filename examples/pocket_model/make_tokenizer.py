"""Trains the byte-level BPE tokenizer on generated documents.

    python examples/pocket_model/make_tokenizer.py --out core/zif/bundled

Every byte is in the vocabulary, so that any UTF-8 text survives the round trip. Digits are split one by one, which makes
arithmetic learnable; the rest of the splitting pattern is Qwen2's.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

from corpus import ENDOFTEXT, IM_END, IM_START, document
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 2048
PAD = "<|pad|>"
TOOL_MARKS = ["<tool_call>", "</tool_call>"]

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content -%}{%- for part in content -%}{{ part.text }}{{- '\\n' if not loop.last -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set rest = messages -%}
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {%- if messages[0].role == 'system' -%}
    {{- text(messages[0].content) + '\\n\\n' -}}
    {%- set rest = messages[1:] -%}
  {%- endif -%}
  {{- 'You can call these tools:\\n' -}}
  {%- for tool in tools -%}{{- tool | tojson -}}{{- '\\n' -}}{%- endfor -%}
  {{- 'To call one, write <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in rest -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {{- text(message.content) -}}
  {%- for call in message.tool_calls or [] -%}
    {%- set function = call.function or call -%}
    {{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
    {{- function.arguments if function.arguments is string else function.arguments | tojson -}}
    {{- '}\\n</tool_call>' -}}
  {%- endfor -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def train_tokenizer(documents: int, seed: int) -> Tokenizer:
    """A tokenizer of exactly `VOCABULARY` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [ENDOFTEXT, IM_START, IM_END, PAD, *TOOL_MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    rng = random.Random(seed)
    marks = re.compile("|".join(map(re.escape, special)))
    tokenizer.train_from_iterator((marks.split(document(rng)) for _ in range(documents)), trainer)
    # The marks of a tool call are text that clients parse: one token each, but kept when special tokens are skipped.
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in TOOL_MARKS])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def save(tokenizer: Tokenizer, out: Path) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``, as transformers reads them."""
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] not in TOOL_MARKS
    (out / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": PAD,
        "unk_token": None,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    save(train_tokenizer(args.documents, args.seed), args.out)


if __name__ == "__main__":
    main()
