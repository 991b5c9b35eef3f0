"""``zif COMMAND``: finds the command's module, runs it, and turns failures into one readable line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from zif.cli.foreign import ADVICE
from zif.contract.errors import InvalidSettings, ZifError

COMMANDS = {
    "serve": ("zif.cli.serve", "serve a model over HTTP, with OpenAI's API"),
    "generate": ("zif.cli.generate", "continue a prompt, or each line of a file"),
    "chat": ("zif.cli.chat", "talk to a model in the terminal"),
    "devices": ("zif.cli.devices", "list backends: what was found, and why one cannot be used"),
    "ops": ("zif.cli.ops", "say what an op of the contract means and what its kernels are given"),
    "check": ("zif.cli.check", "check a backend for conformance"),
    "warmup": ("zif.cli.warmup", "compile and measure ahead what a model needs, so that no request waits for it"),
    "aot": ("zif.cli.aot", "compile a model for hardware that is not here, and report on it"),
    "bench": ("zif.cli.bench", "measure throughput and latency"),
}
"""Each command's module has ``configure(parser)`` and ``run(args) -> exit code``."""

FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong and where to read more; exit code 2."""
        self.exit(WRONG_USAGE, f"error: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done; 1: failed; 2: wrong usage or settings; 130: interrupted. The traceback of a failure
    is printed with ``--log-level debug`` (or ZIF_LOG_LEVEL=debug) alone, after its line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("ZIF_LOG_LEVEL") == "debug"
    try:
        args = _parse(arguments)
        debug = debug or getattr(args, "log_level", None) == "debug"
        command = importlib.import_module(COMMANDS[args.command][0])
        code: int = command.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`zif devices | head`). Python would fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ZifError, OSError) as error:
        return _report(str(error), debug, WRONG_USAGE if isinstance(error, InvalidSettings) else FAILED)
    except Exception as error:
        hint = "" if debug else " (--log-level debug prints the traceback)"
        return _report(f"unexpected {type(error).__name__}: {error}{hint}", debug, FAILED)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; of all commands, only the one that is named is imported, to say what its flags are."""
    parser = Parser(prog="zif", description="Serve language models on any accelerator that has a plugin.")
    parser.add_argument("--version", action=_PrintVersion)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        sub.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error; debug prints tracebacks")
        if name == wanted:
            importlib.import_module(module).configure(sub)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse_unknown(commands.choices[args.command], unknown)
    return args


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    flag = unknown[0].partition("=")[0]
    if flag in ADVICE:
        parser.error(f"unknown argument {flag}, which other servers have: {ADVICE[flag]}")
    known = [name for action in parser._actions for name in action.option_strings]
    close = difflib.get_close_matches(flag, known, n=1) if flag.startswith("-") else []
    parser.error(f"unknown argument {flag}" + (f": did you mean {close[0]}?" if close else ""))


class _PrintVersion(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import zif

        print(f"zif {zif.__version__}")
        parser.exit()


def _report(message: str, debug: bool, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if debug:
        traceback.print_exc()
    return code


if __name__ == "__main__":
    sys.exit(main())
