"""The version of the plugin API, and how a plugin and this core agree on one.

The API grows by addition: a new hook, a new argument of a hook (pluggy lets an implementation
take fewer than the spec has), a new field with a default. Such growth raises ``API_VERSION``
and breaks nobody. ``OLDEST_API_VERSION`` rises only when something is taken away.
"""

from __future__ import annotations

from zif.contract.errors import IncompatiblePlugin

API_VERSION = 1
"""The newest version of the plugin API that this core speaks."""

OLDEST_API_VERSION = 1
"""The oldest version that this core still speaks."""


def negotiate(plugin_range: tuple[int, int], *, plugin: str, distribution: str) -> int:
    """Return the newest API version that both sides speak.

    ``plugin_range`` is (oldest, newest), both included. Raises :class:`IncompatiblePlugin`
    with both ranges, and which of the two sides to upgrade.
    """
    oldest, newest = plugin_range
    agreed = min(newest, API_VERSION)
    if agreed >= max(oldest, OLDEST_API_VERSION):
        return agreed
    behind = f"upgrade {distribution}" if newest < OLDEST_API_VERSION else "upgrade zif"
    raise IncompatiblePlugin(
        f"plugin {plugin!r} of {distribution} speaks plugin API {_span(oldest, newest)}, "
        f"this zif speaks {_span(OLDEST_API_VERSION, API_VERSION)}: {behind}",
        distribution,
    )


def _span(oldest: int, newest: int) -> str:
    return f"version {oldest}" if oldest == newest else f"versions {oldest} to {newest}"
