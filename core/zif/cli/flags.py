"""Flags made from the settings model: one place says what a setting is, its help included."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from zif.cli.foreign import ALIASES
from zif.contract.errors import InvalidSettings
from zif.logs import configure_logging
from zif.settings import Settings, flag_of, group_of

if TYPE_CHECKING:
    from zif.llm import LLM

ENGINE = ("model", "device", "memory and scheduling", "general")
SERVER = (*ENGINE, "server")


def add_settings(parser: argparse.ArgumentParser, groups: Collection[str] = ENGINE) -> None:
    """Add a flag for each setting in ``groups``; the model can be given without one as well."""
    parser.usage = f"{parser.prog} [MODEL] [FLAGS]"
    parser.add_argument("model_positional", nargs="?", metavar="MODEL", help=Settings.model_fields["model"].description)
    titles = {name: parser.add_argument_group(name) for name in groups}
    for name, info in Settings.model_fields.items():
        if group_of(info) in titles and name != "log_level":  # which every command has
            titles[group_of(info)].add_argument(flag_of(name), *ALIASES.get(name, ()), **_options(name, info))


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings that ``args``, the environment and the file amount to. Raises :class:`InvalidSettings`."""
    return Settings(**_given(args))


def open_llm(args: argparse.Namespace) -> LLM:
    """An engine in this process with these settings; it logs warnings alone, unless more is asked for."""
    given = _given(args)
    settings = Settings(**given)
    configure_logging(settings.log_level if "log_level" in settings.model_fields_set else "warning")
    from zif.llm import LLM

    return LLM(**given, progress=sys.stderr.isatty())


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What was given as a flag; the rest is left to the environment, the file and the defaults."""
    given = {name: value for name in Settings.model_fields if (value := getattr(args, name, None)) is not None}
    if args.model_positional is not None:
        if "model" in given:
            raise InvalidSettings(f"the model is given twice: {args.model_positional} and --model {given['model']}")
        given["model"] = args.model_positional
    return given


def _options(name: str, info: FieldInfo) -> dict[str, Any]:
    """What ``add_argument`` is told; values stay text, since the model parses and checks them."""
    options: dict[str, Any] = {"dest": name, "help": _help(info), "default": None}
    kind = _without_none(info.annotation)
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return options | {"metavar": "{" + ",".join(get_args(kind)) + "}"}
    if get_origin(kind) in (tuple, dict):
        return options | {"action": "append", "metavar": name.rpartition("_")[2].upper()}
    return options | {"metavar": getattr(kind, "__name__", "value").upper().replace("SECRETSTR", "KEY")}


def _help(info: FieldInfo) -> str:
    text = (info.description or "").replace("%", "%%")
    shown = info.default not in (None, (), {}) and info.default is not False
    return f"{text} (default: {info.default})" if shown else text


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = [part for part in get_args(annotation) if part is not types.NoneType]
        return kind
    return annotation
