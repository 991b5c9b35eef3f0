"""Who may ask: API keys, the host that was asked for, and web pages of other origins.

A browser lets every page send requests to a server on its user's own machine. Such a page cannot read the answer, but
could order things; so a server without a key takes no POST of another origin that the operator has not listed, and one
that listens on loopback alone answers only to names of loopback (a name of the page's own may resolve to 127.0.0.1).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from zif.server.errors import ApiError
from zif.server.options import ServerOptions


@dataclass(frozen=True)
class Caller:
    """Who a request is from: its API key, by the name that stands for it, or else its address."""

    address: str = ""
    key: str | None = None

    @property
    def name(self) -> str:
        """What tells this client from others."""
        return self.key or self.address


NOBODY = Caller()
CALLER: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""Of the request that is being served."""


class Access:
    """Checks requests against ``options``; every refusal is an :class:`ApiError`. ``open_paths`` need no key."""

    def __init__(self, options: ServerOptions, *, open_paths: Collection[str] = ()) -> None:
        self._open_paths = open_paths
        # Looked up by digest: neither the time nor the log tells anything about a key.
        self._keys = {_digest(key.encode()): key_name(key) for key in options.api_keys}
        self._origins = frozenset(options.cors_origins)
        self._hosts: frozenset[str] | None = frozenset(host.lower() for host in options.allowed_hosts)
        self._loopback = is_loopback(options.host)
        if "*" in options.allowed_hosts or not (self._hosts or self._loopback):
            self._hosts = None  # any

    def check(self, scope: Scope) -> Caller:
        """Return who asks. Raises 401 for a wrong key, 403 for a host or an origin that is not served."""
        headers = dict(reversed(scope["headers"]))  # the first of each name
        self._check_host(headers)
        address = (scope.get("client") or ("",))[0]
        if not self._keys:
            self._check_origin(scope, headers)
            return Caller(address)
        if scope["path"] in self._open_paths:
            return Caller(address)
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        name = self._keys.get(_digest(given.strip())) if kind.lower() == b"bearer" else None
        if name is None:
            problem = "wrong API key" if kind else "no API key"
            raise ApiError(401, f"{problem}: send `Authorization: Bearer KEY`", code="invalid_api_key")
        return Caller(address, name)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"host")
        if self._hosts is None or not given:  # browsers always send one
            return
        name = host_of(given.decode("latin-1"))
        if name in self._hosts or (self._loopback and is_loopback(name)):
            return
        raise ApiError(
            403,
            f"this server does not answer to the host {name[:80]!r}: --allowed-hosts lists others",
            code="wrong_host",
        )

    def _check_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"origin")
        if given is None or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        origin = given.decode("latin-1")
        if origin in self._origins or "*" in self._origins:
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if origin.lower() in (f"http://{host}", f"https://{host}"):  # a page that came from here
            return
        raise ApiError(
            403, f"a web page of {origin[:80]!r} may not use this server: --cors-origins lists those that may",
            code="wrong_origin",
        )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address without port, is this machine's own for certain."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """Return the host in a ``Host`` header, in lower case and without its port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()


def key_name(key: str) -> str:
    """Return a name for ``key`` that does not tell it."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:12]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def is_json(headers: Any) -> bool:
    """Whether a body with these ASGI ``headers`` is to be read as JSON.

    One without a content type is, unless a web page sends it: many clients do not label what they send.
    """
    given = next((value for name, value in headers if name == b"content-type"), b"")
    kind = given.partition(b";")[0].strip().lower()
    if not kind:
        return all(name != b"origin" for name, _ in headers)
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
