"""Finding, importing and choosing plugins; see ``zif.contract.hookspecs`` for what one is."""

from __future__ import annotations

from zif.plugins.discovery import Found, installed
from zif.plugins.extending import Extension, extension_formats, extension_kernels, extension_models, survey_extensions
from zif.plugins.loading import BackendPlugin, Plugin, load
from zif.plugins.selection import Considered, Selection, select, survey

__all__ = [
    "BackendPlugin",
    "Considered",
    "Extension",
    "Found",
    "Plugin",
    "Selection",
    "extension_formats",
    "extension_kernels",
    "extension_models",
    "installed",
    "load",
    "select",
    "survey",
    "survey_extensions",
]
