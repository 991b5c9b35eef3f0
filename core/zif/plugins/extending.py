"""Extensions: packages that add kernels or models to backends of others.

One that is broken, or speaks another API version, must not stop a device that can do without it:
it is skipped, which is logged once in a process and shown by ``zif devices``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from zif.contract.errors import PluginError
from zif.contract.info import ExtensionInfo
from zif.plugins.discovery import EXTENSIONS, Found, installed
from zif.plugins.loading import Plugin

if TYPE_CHECKING:
    from zif.contract.backend import Backend
    from zif.contract.cache import CacheFormat
    from zif.contract.kernels import KernelSet

T = TypeVar("T")
EVERY_BACKEND = "*"
logger = logging.getLogger(__name__)


class Extension(Plugin):
    """A plugin of the group ``zif.extensions``. Its API version is agreed on when it is made."""

    def __init__(self, found: Found) -> None:
        super().__init__(found)
        self._require("zif_extension_info")
        self.info: ExtensionInfo = self._call("zif_extension_info", ExtensionInfo)
        self.api_version = self._agree(self.info.name, self.info.api)
        match self.info.backends:
            case (str(), *rest) if all(isinstance(name, str) for name in rest):
                pass
            case other:
                self.fail(f'its backends are {other!r}, not a tuple of names, or ("*",) for every backend')

    def is_for(self, backend: str) -> bool:
        """Whether it adds something to the backend that ``--device`` knows as ``backend``."""
        return EVERY_BACKEND in self.info.backends or backend in self.info.backends


@dataclass(frozen=True, slots=True)
class ConsideredExtension:
    """An installed extension: imported, or ``reason`` says why it is skipped and what to do."""

    found: Found
    reason: str = ""
    plugin: Extension | None = None

    @property
    def verdict(self) -> Literal["usable", "broken"]:
        """What became of it."""
        return "broken" if self.plugin is None else "usable"


def survey_extensions() -> tuple[ConsideredExtension, ...]:
    """Import every installed extension, each guarded."""
    return tuple(_consider(found) for found in installed(EXTENSIONS))


def extension_kernels(backend: Backend, name: str) -> list[KernelSet]:
    """Kernel sets that extensions add to ``backend``, which ``--device`` knows as ``name``."""
    return _added(name, lambda extension: extension.kernels(backend))


def extension_formats(backend: Backend, name: str) -> list[CacheFormat]:
    """Cache formats that extensions add to ``backend``, which ``--device`` knows as ``name``."""
    return _added(name, lambda extension: extension.cache_formats(backend))


def _added(name: str, ask: Callable[[Extension], Sequence[T]]) -> list[T]:
    added: list[T] = []
    for extension in _extensions_for(name):
        try:
            added += ask(extension)
        except PluginError as error:
            _report_skipped(str(error))
    return added


def extension_models(name: str) -> dict[str, str]:
    """Architectures that extensions add for the backend ``name``, each with the module that defines it."""
    added: dict[str, str] = {}
    for extension in _extensions_for(name):
        try:
            added |= extension.models()
        except PluginError as error:
            _report_skipped(str(error))
    return added


def _consider(found: Found) -> ConsideredExtension:
    try:
        return ConsideredExtension(found, plugin=Extension(found))
    except PluginError as error:
        return ConsideredExtension(found, str(error))


def _extensions_for(backend: str) -> Sequence[Extension]:
    usable = []
    for entry in survey_extensions():
        if entry.plugin is None:
            _report_skipped(entry.reason)
        elif entry.plugin.is_for(backend):
            usable.append(entry.plugin)
    return usable


@functools.cache
def _report_skipped(reason: str) -> None:
    """Once in a process: kernels and models are asked for one after the other."""
    logger.warning("an extension is skipped, and nothing that it adds is there: %s", reason)
