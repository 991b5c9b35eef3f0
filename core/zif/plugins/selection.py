"""``--device``: which plugin serves, and an account of every one that was considered.

It fails closed. What was asked for is what runs, or the error says which plugins were found in
which distributions, what each probe said, and what to do; nothing falls back to another device.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from zif.contract.errors import InvalidSettings, NoUsableDevice, PluginError
from zif.contract.info import Available, BackendInfo, Device, ProbeResult
from zif.plugins.discovery import Found, installed
from zif.plugins.loading import FRAMEWORKS, BackendPlugin, load, load_found

if TYPE_CHECKING:
    from zif.contract.backend import Backend
    from zif.contract.comm import Group

AUTO = "auto"
logger = logging.getLogger(__name__)

Verdict = Literal["chosen", "available", "unavailable", "broken", "not asked"]


@dataclass(frozen=True, slots=True)
class Considered:
    """One plugin in a decision: where it comes from, what became of it and why."""

    name: str
    distribution: str
    verdict: Verdict
    reason: str = ""
    fix: str = ""
    info: BackendInfo | None = None
    probe: ProbeResult | None = None
    plugin: BackendPlugin | None = None

    @property
    def preference(self) -> int:
        """The plugin's declared preference; 0 if it could not say."""
        return self.info.preference if self.info is not None else 0

    @property
    def taken_by_auto(self) -> bool:
        """Whether ``--device auto`` may choose it."""
        return self.verdict == "available" and self.preference >= 0

    def __str__(self) -> str:
        line = f"{self.name} ({self.distribution}): {self.verdict}"
        line += f": {self.reason}" if self.reason else ""
        return line + (f". Fix: {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Selection:
    """The device that serves, and how it was arrived at."""

    plugin: BackendPlugin
    device: Device
    options: Mapping[str, str]
    reason: str
    trace: tuple[Considered, ...]

    def explain(self) -> str:
        """The decision: a line, then a line for each plugin considered."""
        head = f"device {self.plugin.name}:{self.device.index} of {self.plugin.found}: {self.reason}"
        return "\n".join([head, *(f"  {entry}" for entry in self.trace)])

    def devices_of_ranks(self, size: int) -> tuple[Device, ...]:
        """The devices of ``size`` ranks: this one and those numbered after it, or it alone if ranks can share it.

        Raises :class:`InvalidSettings` where the plugin has no tensor parallelism, :class:`NoUsableDevice`
        where there are too few.
        """
        name, first = self.plugin.name, self.device.index
        if self.plugin.info.ranks is None:
            raise InvalidSettings(f"--tp-size {size}: {self.plugin.found} has no tensor parallelism; leave it at 1")
        if self.device.shared:
            return (self.device,) * size
        found: tuple[Device, ...] = next(
            entry.probe.devices
            for entry in self.trace
            if entry.verdict == "chosen" and isinstance(entry.probe, Available)
        )
        by_index = {device.index: device for device in found}
        missing = [f"{name}:{index}" for index in range(first, first + size) if index not in by_index]
        if missing:
            raise NoUsableDevice(
                f"--tp-size {size} from {name}:{first} on: {', '.join(missing)} not there; "
                f"{self.plugin.found} found {', '.join(map(str, by_index))}"
            )
        return tuple(by_index[index] for index in range(first, first + size))

    def apply_environment(self) -> None:
        """Set the plugin's environment variables, before any framework is imported; the user's own win."""
        wanted = {k: v for k, v in self.plugin.environment(self.options).items() if k not in os.environ}
        late = FRAMEWORKS & sys.modules.keys()
        if wanted and late:
            logger.warning(
                "%s came too late for %s, which was already imported", ", ".join(wanted), ", ".join(sorted(late))
            )
        os.environ.update(wanted)

    def create_backend(self, group: Group | None = None) -> Backend:
        """Make the backend, on its own or as part of a group: the first step that imports a framework."""
        self.apply_environment()
        return self.plugin.create_backend(self.options, self.device, group)


def select(device: str = AUTO, device_opts: Sequence[str] = ()) -> Selection:
    """Choose the plugin and the device for ``device``: "auto", a plugin's name, or "name:index".

    ``device_opts`` are ``plugin.key=value``. "auto" takes the available plugin that declares the
    highest preference, if it is not negative. Raises :class:`NoUsableDevice`, :class:`PluginError` or
    :class:`InvalidSettings`, each with what was found and what to do.
    """
    given = parse_device_opts(device_opts)
    name, colon, index = device.partition(":")
    if colon and not index.isdecimal():
        raise InvalidSettings(f"--device {device}: what follows the colon is a device's number, as in {name}:0")
    if name != AUTO:
        return _select_named(name, int(index or 0), given)
    if colon:
        raise InvalidSettings(f"--device {device}: a device's number needs the plugin's name before it")
    trace = survey(given)
    usable = [entry for entry in trace if entry.taken_by_auto]
    if not usable:
        found = "\n".join(f"  {entry}" for entry in trace) or "  no plugin is installed"
        raise NoUsableDevice(f"--device auto: no plugin can run here\n{found}")
    best = usable[0]
    assert best.plugin is not None
    assert isinstance(best.probe, Available)
    reason = f"auto: preference {best.plugin.info.preference}, the highest of {len(usable)} available"
    return Selection(
        plugin=best.plugin,
        device=best.probe.devices[0],
        options=complete_options(best.plugin, given.get(best.name, {})),
        reason=reason,
        trace=_mark_chosen(trace, best),
    )


def survey(given: Mapping[str, Mapping[str, str]] | None = None) -> tuple[Considered, ...]:
    """Import and probe every installed plugin, each guarded, for ``auto`` and for ``zif devices``.

    ``given`` are options by plugin. The available ones come first, the most preferred at the top.
    """
    given = given or {}
    names = groupby(installed(), key=lambda found: found.name)
    entries = [_consider(list(candidates), given.get(name, {})) for name, candidates in names]
    unknown = given.keys() - {entry.name for entry in entries}
    if unknown:
        raise InvalidSettings(f"--device-opt {min(unknown)}.…: no plugin of that name is installed")
    return tuple(sorted(entries, key=lambda e: (e.verdict != "available", -e.preference)))


def parse_device_opts(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Sort ``plugin.key=value`` items by plugin. Raises :class:`InvalidSettings` for another form."""
    sorted_by_plugin: dict[str, dict[str, str]] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        plugin, dot, key = path.partition(".")
        if not (equals and dot and plugin and key):
            raise InvalidSettings(f"--device-opt {pair}: write it as plugin.key=value, as in cpu.threads=4")
        sorted_by_plugin.setdefault(plugin, {})[key] = value
    return sorted_by_plugin


def complete_options(plugin: BackendPlugin, given: Mapping[str, str]) -> dict[str, str]:
    """The plugin's options, those not given with their default. Raises :class:`InvalidSettings`."""
    declared = {option.name: option for option in plugin.options}
    for key, value in given.items():
        if key not in declared:
            known = ", ".join(f"{plugin.name}.{name}" for name in declared) or "none"
            raise InvalidSettings(f"--device-opt {plugin.name}.{key}: {plugin.found} has no such option, but {known}")
        choices = declared[key].choices
        if choices and value not in choices:
            raise InvalidSettings(f"--device-opt {plugin.name}.{key}={value}: must be one of {', '.join(choices)}")
    return {name: option.default for name, option in declared.items()} | dict(given)


def _select_named(name: str, index: int, given: Mapping[str, Mapping[str, str]]) -> Selection:
    others = given.keys() - {name}
    if others:
        raise InvalidSettings(f"--device-opt {min(others)}.…: it is for another plugin than --device {name}")
    plugin = load(name)
    options = complete_options(plugin, given.get(name, {}))
    asked = _probed(plugin, options)
    rest = [
        Considered(found.name, str(found), "not asked", "--device names another")
        for found in installed()
        if found.name != name
    ]
    trace = (asked, *rest)
    if not isinstance(asked.probe, Available):
        lines = "\n".join(f"  {entry}" for entry in trace)
        raise NoUsableDevice(f"--device {name}: {asked.reason}. Fix: {asked.fix}\n{lines}")
    for device in asked.probe.devices:
        if device.index == index:
            return Selection(plugin, device, options, f"asked for with --device {name}", _mark_chosen(trace, asked))
    numbers = ", ".join(str(device.index) for device in asked.probe.devices)
    raise NoUsableDevice(f"--device {name}:{index}: no such device; {plugin.found} found {numbers}")


def _consider(candidates: Sequence[Found], given: Mapping[str, str]) -> Considered:
    try:
        plugin = load_found(candidates, BackendPlugin)
        return _probed(plugin, complete_options(plugin, given))
    except PluginError as error:
        owners = " and ".join(str(found) for found in candidates)
        return Considered(candidates[0].name, owners, "broken", str(error))


def _probed(plugin: BackendPlugin, options: Mapping[str, str]) -> Considered:
    result = plugin.probe(options)
    if isinstance(result, Available):
        notes = list(result.notes)
        if plugin.imported_frameworks:
            notes.append(f"its plugin module or probe imports {', '.join(sorted(plugin.imported_frameworks))}")
        return Considered(
            plugin.name, str(plugin.found), "available", "; ".join(notes), "", plugin.info, result, plugin
        )
    return Considered(
        plugin.name, str(plugin.found), "unavailable", result.reason, result.fix, plugin.info, result, plugin
    )


def _mark_chosen(trace: Sequence[Considered], chosen: Considered) -> tuple[Considered, ...]:
    return tuple(replace(entry, verdict="chosen") if entry is chosen else entry for entry in trace)
