"""Importing one plugin, alone, and asking it things; whatever goes wrong names its distribution."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pluggy

from zif.contract import hookspecs
from zif.contract.errors import InvalidSettings, NoUsableDevice, PluginError, ZifError
from zif.contract.info import Available, BackendInfo, Device, DeviceOption, ModelOverride, ProbeResult, Unavailable
from zif.contract.version import negotiate
from zif.plugins.discovery import Found, how_to_install, installable, installed

if TYPE_CHECKING:
    from zif.contract.ahead import AheadBackend
    from zif.contract.backend import Backend
    from zif.contract.cache import CacheFormat
    from zif.contract.comm import Group
    from zif.contract.kernels import KernelSet

T = TypeVar("T")

FRAMEWORKS = frozenset({"torch", "jax", "jaxlib", "triton", "tensorflow", "transformers"})
"""What neither a plugin's import nor its probe may bring in: slow, and some initialise devices."""

PATIENCE = 2.0
"""Seconds that a plugin's import or hook takes before it is named on standard error."""
HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith("zif_"))
REQUIRED = ("zif_backend_info", "zif_probe", "zif_create_backend")


class Plugin:
    """One imported plugin: its hooks, called one by one and checked.

    ``imported_frameworks`` are the tensor libraries that came in when it was imported or probed,
    which is against the contract; empty in a process that had them before.
    """

    def __init__(self, found: Found) -> None:
        self.found = found
        self.imported_frameworks: frozenset[str] = frozenset()
        self._manager = pluggy.PluginManager("zif")
        self._manager.add_hookspecs(hookspecs)
        with self._guard("could not be imported"):
            module = found.entry_point.load()
        for hook in HOOKS:
            if hasattr(module, hook) and not hasattr(getattr(module, hook), "zif_impl"):
                self.fail(f"{hook} lacks the @hookimpl marker")
        try:
            # A namespace, so that a module that two entry points share can be registered twice.
            self._manager.register(_implementations(module))
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise self._error(_one_line(error)) from error

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.found.name

    def implements(self, hook: str) -> bool:
        """Whether the plugin has this hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def kernels(self, backend: Backend) -> Sequence[KernelSet]:
        """Kernel sets that the plugin adds to ``backend``."""
        from zif.contract.kernels import KernelSet

        return self._list("zif_kernels", KernelSet, backend=backend)

    def cache_formats(self, backend: Backend) -> Sequence[CacheFormat]:
        """Cache formats that the plugin adds to ``backend``."""
        from zif.contract.cache import CacheFormat

        return self._list("zif_cache_formats", CacheFormat, backend=backend)  # type: ignore[type-abstract]

    def models(self) -> Mapping[str, str]:
        """Architecture to module, for those that the plugin adds."""
        return self._str_mapping("zif_models")

    def model_overrides(self) -> Sequence[ModelOverride]:
        """Models that the plugin runs instead of the shared ones."""
        return self._list("zif_model_override", ModelOverride)

    def fail(self, what: str) -> NoReturn:
        """Raise a :class:`PluginError` that names the plugin and its distribution."""
        raise self._error(what)

    def _error(self, what: str) -> PluginError:
        owner = self.found.distribution
        return PluginError(f"plugin {self.name!r} of {self.found}: {what}; repair, upgrade or uninstall {owner}", owner)

    def _require(self, *hooks: str) -> None:
        missing = [hook for hook in hooks if not self.implements(hook)]
        if missing:
            self.fail(f"lacks the required hook{'s' if len(missing) > 1 else ''} {', '.join(missing)}")

    def _agree(self, name: str, api: object) -> int:
        """Check what a plugin's information says of it; returns the API version that both sides speak."""
        if name != self.name:
            self.fail(f"calls itself {name!r}, but its entry point is {self.name!r}")
        match api:
            case (int(oldest), int(newest)) if 0 < oldest <= newest:
                speaks = (oldest, newest)
            case other:
                self.fail(f"its API range is {other!r}, not (oldest, newest)")
        return negotiate(speaks, plugin=self.name, distribution=str(self.found))

    def _call(self, hook: str, *kinds: type, **arguments: Any) -> Any:
        """Call a hook that the plugin implements; what it returns must be of one of ``kinds``."""
        with self._guard(f"{hook} raised"):
            results = getattr(self._manager.hook, hook)(**arguments)
        result = results[0] if results else None
        if not isinstance(result, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            self.fail(f"{hook} returned {type(result).__name__}, not {wanted}")
        return result

    def _list(self, hook: str, kind: type[T], **arguments: Any) -> Sequence[T]:
        if not self.implements(hook):
            return ()
        items = tuple(self._call(hook, list, tuple, **arguments))
        for item in items:
            if not isinstance(item, kind):
                self.fail(f"{hook} returned a list with a {type(item).__name__}, not {kind.__name__}")
        return items

    def _str_mapping(self, hook: str, **arguments: Any) -> Mapping[str, str]:
        if not self.implements(hook):
            return {}
        pairs = dict(self._call(hook, Mapping, **arguments))
        for key, value in pairs.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                self.fail(f"{hook} returned {key!r}: {value!r}; both must be text")
        return pairs

    @contextmanager
    def _guard(self, what: str, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Turn whatever a plugin throws, exits included, into an error that names it, but for what ``passes``.

        What it imports is watched, what it prints goes to standard error, and so does a word where it takes long.
        """
        before = FRAMEWORKS & sys.modules.keys()
        try:
            with redirect_stdout(sys.stderr), _patience(f"{self.found}: plugin {self.name!r}"):
                yield
        except passes:
            raise
        except (Exception, SystemExit) as error:
            raise self._error(f"{what}: {type(error).__name__}: {_one_line(error)}") from error
        finally:
            self.imported_frameworks |= (FRAMEWORKS & sys.modules.keys()) - before


class BackendPlugin(Plugin):
    """A plugin of the group ``zif.backends``: a device's. Its API version is agreed on when it is made."""

    def __init__(self, found: Found) -> None:
        super().__init__(found)
        self._require(*REQUIRED)
        self.info: BackendInfo = self._call("zif_backend_info", BackendInfo)
        self.api_version = self._agree(self.info.name, self.info.api)
        self.options = self._list("zif_cli_options", DeviceOption)

    def probe(self, options: Mapping[str, str]) -> ProbeResult:
        """Ask which devices can be used; ``options`` are this plugin's, complete with defaults."""
        result: ProbeResult = self._call("zif_probe", Available, Unavailable, options=options)
        if isinstance(result, Available) and not result.devices:
            self.fail("zif_probe returned Available without a device; Unavailable says why there is none")
        return result

    def environment(self, options: Mapping[str, str]) -> Mapping[str, str]:
        """Environment variables that must be set before a framework is imported."""
        return self._str_mapping("zif_environment", options=options)

    def create_backend(self, options: Mapping[str, str], device: Device, group: Group | None = None) -> Backend:
        """Make the backend. Deliberate errors pass as they are; any other names the plugin and the hook."""
        with self._guard("zif_create_backend raised", passes=(ZifError,)):
            hook = self._manager.hook.zif_create_backend
            (backend,) = hook(options=options, device=device, group=group) or (None,)
        if backend is None:
            self.fail("zif_create_backend returned None")
        made: Backend = backend
        return made

    def ahead_of_time(self, options: Mapping[str, str], target: str, ranks: int | None = 1) -> AheadBackend:
        """A backend that compiles for ``ranks`` devices of ``target``; None: for all that it can.

        Raises InvalidSettings where the plugin has none.
        """
        if not self.implements("zif_ahead_of_time"):
            raise InvalidSettings(f"--device {self.name}: {self.found} cannot compile ahead of time")
        (backend,) = self._manager.hook.zif_ahead_of_time(options=options, target=target, ranks=ranks) or (None,)
        if backend is None:
            self.fail("zif_ahead_of_time returned None")
        made: AheadBackend = backend
        return made


def load(name: str) -> BackendPlugin:
    """Import the backend plugin ``name``, and no other.

    Raises :class:`NoUsableDevice` if none is installed under that name (it lists those that are),
    :class:`PluginError` if it is broken or two distributions claim the name, and
    ``IncompatiblePlugin`` if it speaks no API version of this core.
    """
    everything = installed()
    candidates = [found for found in everything if found.name == name]
    if not candidates:
        raise NoUsableDevice(_unknown(name, everything))
    return load_found(candidates, BackendPlugin)


def load_found(candidates: Sequence[Found], kind: Callable[[Found], T]) -> T:
    """Import what was found under one name, provided that one distribution alone claims it."""
    if len(candidates) > 1:
        owners = " and ".join(str(found) for found in candidates)
        name = candidates[0].name
        raise PluginError(f"plugin {name!r} is claimed by {owners}: uninstall all but one", candidates[0].distribution)
    return kind(candidates[0])


def _unknown(name: str, everything: Sequence[Found]) -> str:
    listed = ", ".join(f"{found.name} ({found})" for found in everything) or "none"
    ours = installable()
    if name in ours:
        fix = how_to_install(name)
    else:
        missing = sorted(ours.keys() - {found.name for found in everything})
        fix = "install the package of its vendor that provides it; zif's own are " + (
            ", ".join(missing) or "all installed"
        )
    return f"--device {name}: no installed plugin provides it. Installed: {listed}. Fix: {fix}"


@contextmanager
def _patience(whom: str) -> Iterator[None]:
    """Say on standard error whom zif waits for, if it does so for long: a hang has a name then."""

    def tell() -> None:
        print(f"zif waits for {whom}, for {PATIENCE:g} s so far", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _implementations(module: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: getattr(module, name) for name in dir(module) if name.startswith("zif_")})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
