"""Package hygiene: what a plugin is before it computes anything.

A fresh interpreter imports the plugin, probes it and makes its backend, and reports what came in
and what changed: here, frameworks may have been imported long ago.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zif.conformance.profiles import profiles_at
from zif.conformance.results import Recorder, Skip
from zif.contract import version
from zif.contract.arrays import dtype_bytes
from zif.contract.info import Available
from zif.plugins import Selection
from zif.plugins.discovery import Found

SECTION = "hygiene"
TIMEOUT = 120


def check_plugin(selection: Selection, recorder: Recorder, environment: Mapping[str, str]) -> None:
    """Record the results of the section ``hygiene``. ``environment``: what there was before the plugin was imported."""
    plugin, found = selection.plugin, selection.plugin.found

    def check(subject: str, test: Any) -> None:
        recorder.check(SECTION, subject, "", test)

    check("api version", lambda: _api(plugin.info.api))
    check("profiles are known", lambda: _profiles(plugin.info.profiles, plugin.api_version))
    check("options are explained", lambda: _unexplained([(o.name, o.summary) for o in plugin.options]))
    check("summary", lambda: None if plugin.info.summary.strip() else "the plugin's summary is empty")
    check("devices are numbered", lambda: _numbered(plugin.probe(selection.options)))
    check("metadata", lambda: _metadata(found))
    check("py.typed", lambda: _typed(found))
    if not any(recorder.wants(SECTION, subject) for subject in _FRESH):
        return
    given = [f"{plugin.name}.{name}={value}" for name, value in selection.options.items()]
    try:
        report = _fresh_interpreter(f"{plugin.name}:{selection.device.index}", given, environment)
    except RuntimeError as error:
        for subject in _FRESH:
            recorder.add(SECTION, subject, "", "fail", str(error))
        return
    for subject in _FRESH:
        fault = report[subject]
        recorder.add(SECTION, subject, "", "fail" if fault else "pass", fault or "")


_FRESH = (
    "hooks are named right",
    "imports no framework",
    "core is left as it is",
    "the environment is left as it is",
    "capabilities",
)


def _api(span: tuple[int, int]) -> str | None:
    if span[1] < version.API_VERSION:
        raise Skip(f"checked as version {span[1]}, the newest that it speaks; this zif's is {version.API_VERSION}")
    return None


def _profiles(profiles: tuple[str, ...], level: int) -> str | None:
    known = profiles_at(level)
    unknown = [profile for profile in profiles if profile not in known]
    return f"{unknown} are none of {sorted(known)}" if unknown else None


def _unexplained(options: list[tuple[str, str]]) -> str | None:
    silent = [name for name, summary in options if not summary.strip()]
    return f"no summary of {', '.join(silent)}" if silent else None


def _numbered(probe: object) -> str | None:
    assert isinstance(probe, Available)
    numbers = [device.index for device in probe.devices]
    return None if len(set(numbers)) == len(numbers) else f"two devices have one index: {numbers}"


def _metadata(found: Found) -> str | None:
    """A version, a summary, and a README as the long description."""
    metadata: Any = importlib.metadata.metadata(found.distribution)  # an email.message.Message
    missing = [field for field in ("Version", "Summary") if not metadata.get(field)]
    if not str(metadata.get("Description") or metadata.get_payload() or "").strip():
        missing.append("a README (the long description)")
    return f"{found.distribution} lacks {', '.join(missing)}" if missing else None


def _typed(found: Found) -> str | None:
    package = found.entry_point.module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        return f"{package} is a lone module: only a package can hold py.typed"
    return None if any((Path(place) / "py.typed").exists() for place in places) else f"{package} has no py.typed"


def _fresh_interpreter(device: str, options: list[str], environment: Mapping[str, str]) -> dict[str, str | None]:
    """What :mod:`zif.conformance.fresh` reports, with this interpreter's module path."""
    code = (
        "import json, sys; path, arguments = map(json.loads, sys.argv[1:]); sys.path[:] = path; "
        "from zif.conformance.fresh import main; main(*arguments)"
    )
    command = [sys.executable, "-c", code, json.dumps(sys.path), json.dumps([device, options])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"importing and making it took over {TIMEOUT} s in a fresh interpreter") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"it cannot be made in a fresh interpreter: {said[-1] if said else 'no output'}")
    report: dict[str, str | None] = json.loads(lines[-1])
    return report


def check_capabilities(dtypes: tuple[str, ...], page_sizes: tuple[int, ...]) -> str | None:
    """Whether what a backend says of itself is of the contract's kinds."""
    if not dtypes:
        return "capabilities.dtypes is empty"
    for dtype in dtypes:
        try:
            dtype_bytes(dtype)
        except KeyError:
            return f"capabilities.dtypes has {dtype!r}, which the contract does not know"
    return None if all(size > 0 for size in page_sizes) else f"capabilities.page_sizes are {page_sizes}"
