"""Finding, importing and choosing plugins; see ``zif.contract.hookspecs`` for what one is."""

from __future__ import annotations

from zif.plugins.discovery import Found, installed
from zif.plugins.loading import BackendPlugin, Plugin, extensions, load
from zif.plugins.selection import Considered, Selection, select, survey

__all__ = [
    "BackendPlugin",
    "Considered",
    "Found",
    "Plugin",
    "Selection",
    "extensions",
    "installed",
    "load",
    "select",
    "survey",
]
