"""``zif chat``: a conversation in the terminal, streamed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from zif.cli.flags import add_settings, open_llm
from zif.cli.sampling import add_sampling, sampling_from
from zif.contract.errors import InvalidRequest

if TYPE_CHECKING:
    from zif.llm import LLM
    from zif.sampling.params import SamplingParams

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends it, Ctrl-C stops an answer"
Messages = list[dict[str, str]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the system message, sampling and the engine's settings."""
    parser.add_argument("--system", help="system message that the conversation starts with")
    add_sampling(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Answer line by line until the input ends."""
    sampling_from(args)  # a wrong flag is told before a model is loaded
    start: Messages = [{"role": "system", "content": args.system}] if args.system else []
    interactive = sys.stdin.isatty()
    with open_llm(args) as llm:
        params = sampling_from(args, llm.frontend.model.sampling_defaults)
        if interactive:
            import readline  # noqa: F401  line editing and history for input()

            print(HELP)
        messages = list(start)
        while (line := _read(interactive)) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit":
                    return 0
                case "/reset":
                    messages = list(start)
                case text:
                    _answer(llm, messages, text, params)
    return 0


def _read(interactive: bool) -> str | None:
    try:
        return input("> " if interactive else "")
    except EOFError:
        return None


def _answer(llm: LLM, messages: Messages, text: str, params: SamplingParams) -> None:
    """Print the answer to ``text`` and add both to ``messages``; a refused one leaves them as they were."""
    messages.append({"role": "user", "content": text})
    answer = ""
    try:
        for delta in llm.stream(messages, params):
            answer += delta.text
            print(delta.text, end="", flush=True)
    except KeyboardInterrupt:
        pass  # the answer as far as it came is part of the conversation
    except InvalidRequest as error:
        messages.pop()
        print(f"error: {error} (/reset starts anew)", file=sys.stderr)
        return
    print()
    messages.append({"role": "assistant", "content": answer})
