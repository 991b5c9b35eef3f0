"""``zif generate``: continue prompts given as flags, in a file, or on standard input."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zif.cli.flags import add_settings, open_llm
from zif.cli.output import print_json
from zif.cli.sampling import add_sampling, sampling_from
from zif.contract.errors import InvalidSettings

if TYPE_CHECKING:
    from zif.frontend.output import Completion
    from zif.llm import LLM
    from zif.sampling.params import SamplingParams


def configure(parser: argparse.ArgumentParser) -> None:
    """Add prompts, sampling and the engine's settings."""
    parser.add_argument("--prompt", "-p", action="append", help="text to continue; can be repeated")
    parser.add_argument("--file", type=Path, help="file with a prompt a line")
    parser.add_argument(
        "--chat", action="store_true", help="send each prompt as a user's message, by the chat template"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: text, tokens and why it ended")
    add_sampling(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the continuation: of one prompt as it comes, of several one after the other."""
    texts = _prompts(args)
    sampling_from(args)  # a wrong flag is told before a model is loaded
    with open_llm(args) as llm:
        params = sampling_from(args, llm.frontend.model.sampling_defaults)
        if len(texts) == 1 and not args.json:
            for delta in llm.stream(_message(texts[0]) if args.chat else texts[0], params):
                print(delta.text, end="", flush=True)
            print()
            return 0
        completions = asyncio.run(_answer_all(llm, texts, params)) if args.chat else llm.generate(texts, params)
    if args.json:
        print_json(
            [
                {
                    "prompt": text,
                    "text": completion.text,
                    "token_ids": completion.choices[0].token_ids,
                    "finish_reason": completion.choices[0].finish_reason,
                    "prompt_tokens": len(completion.prompt_ids),
                    "completion_tokens": completion.completion_tokens,
                    "cached_tokens": completion.cached_tokens,
                }
                for text, completion in zip(texts, completions, strict=True)
            ]
        )
    else:
        print("\n\n".join(completion.text for completion in completions))
    return 0


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def _answer_all(llm: LLM, texts: Sequence[str], params: SamplingParams) -> list[Completion]:
    return await asyncio.gather(*(llm.achat(_message(text), params) for text in texts))


def _prompts(args: argparse.Namespace) -> list[str]:
    prompts: list[str] = list(args.prompt or ())
    if args.file is not None:
        prompts += [line for line in args.file.read_text(encoding="utf-8").splitlines() if line]
    if not prompts and args.file is None and not sys.stdin.isatty():
        prompts = [text] if (text := sys.stdin.read().rstrip("\n")) else []
    if not prompts:
        raise InvalidSettings("nothing to continue: give --prompt, --file, or text on standard input")
    return prompts
