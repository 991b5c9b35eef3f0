"""``zif generate``: continue prompts given as flags, in a file, or on standard input."""

from __future__ import annotations

import argparse
import asyncio
import re
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
    parser.add_argument("--prompt", "-p", action="append", help="text to answer or to continue; can be repeated")
    parser.add_argument("--file", type=Path, help="file with a prompt a line")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="send each prompt as a user's message, by the chat template, or have the text itself continued; "
        "if not given, as a message where the model has a template",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: text, tokens and why it ended")
    add_sampling(parser)
    add_settings(parser)
    parser.usage = f"{parser.prog} [MODEL] [PROMPT] [FLAGS]"
    parser.add_argument("prompt_positional", nargs="?", metavar="PROMPT", help="as --prompt")


def run(args: argparse.Namespace) -> int:
    """Print the continuation: of one prompt as it comes, of several one after the other."""
    _sort_positionals(args)
    texts = _prompts(args)
    sampling_from(args)  # a wrong flag is told before a model is loaded
    with open_llm(args) as llm:
        params = sampling_from(args, llm.frontend.model.sampling_defaults)
        chat = llm.frontend.tokenizer.chat_template is not None if args.chat is None else args.chat
        if len(texts) == 1 and not args.json:
            said = ""
            for delta in llm.stream(_message(texts[0]) if chat else texts[0], params):
                said += delta.text
                print(delta.text, end="", flush=True)
            print()
            if not said:
                _explain_silence(chat)
            return 0
        completions = asyncio.run(_answer_all(llm, texts, params)) if chat else llm.generate(texts, params)
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


def _sort_positionals(args: argparse.Namespace) -> None:
    """Tell a prompt from a model: a model is a path that is there, or is written as one or as a hub id."""
    if args.prompt_positional is None and args.model_positional is not None and not _names_model(args.model_positional):
        args.model_positional, args.prompt_positional = None, args.model_positional
    if args.prompt_positional is not None:
        args.prompt = [*(args.prompt or ()), args.prompt_positional]


def _names_model(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+|[./~]\S*", text) is not None or Path(text).exists()


def _explain_silence(chat: bool) -> None:
    hint = "" if chat else ": a chat model, maybe, which answers with --chat"
    print(f"(the model ended at once, without a word{hint})", file=sys.stderr)


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
        raise InvalidSettings("nothing to answer: give a prompt, --file, or text on standard input")
    return prompts
