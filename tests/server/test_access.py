"""Keys, hosts and web pages of other origins: who may use a server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server.conftest import ClientMaker
from server.scripted_engine import ScriptedEngine
from zif.contract.errors import InvalidSettings
from zif.server import ServerOptions
from zif.server.access import host_of, is_loopback
from zif.server.launch import api_keys
from zif.settings import Settings

PROMPT = {"prompt": "x", "max_tokens": 2}
EVIL = {"origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer one", 200),
        ("bearer two", 200),
        ("BEARER   two ", 200),
        ("Bearer three", 401),
        ("Bearer", 401),
        ("Basic one", 401),
        ("one", 401),
        ("", 401),
    ],
)
async def test_each_key_is_taken_and_no_other(make_client: ClientMaker, header: str, status: int) -> None:
    client = make_client(api_keys=("one", "two"))
    response = await client.get("/v1/models", headers={"authorization": header})
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_keys_come_from_the_flag_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\none\n\n  two  \none\n")
    assert api_keys(Settings(api_key="zero", api_key_file=file)) == ("zero", "one", "two")
    assert api_keys(Settings()) == ()
    file.write_text("# nobody\n\n")
    with pytest.raises(InvalidSettings, match=r"--api-key-file .*holds no key"):
        api_keys(Settings(api_key_file=file))
    with pytest.raises(InvalidSettings, match=r"--api-key-file .*No such file"):
        api_keys(Settings(api_key_file=tmp_path / "missing"))


@pytest.mark.parametrize(
    ("listening", "allowed", "asked", "status"),
    [
        ("127.0.0.1", (), "127.0.0.1:30000", 200),
        ("127.0.0.1", (), "localhost:30000", 200),
        ("127.0.0.1", (), "LOCALHOST", 200),
        ("127.0.0.1", (), "zif.localhost", 200),
        ("127.0.0.1", (), "[::1]:30000", 200),
        ("127.0.0.1", (), "evil.example", 403),
        ("127.0.0.1", (), "127.0.0.1.evil.example", 403),
        ("127.0.0.1", (), "localhost.evil.example:30000", 403),
        ("localhost", (), "evil.example", 403),
        ("::1", (), "evil.example", 403),
        ("127.0.0.1", ("my.proxy",), "My.Proxy:443", 200),
        ("127.0.0.1", ("my.proxy",), "localhost", 200),
        ("127.0.0.1", ("*",), "anything", 200),
        ("0.0.0.0", (), "anything", 200),
        ("0.0.0.0", ("my.proxy",), "my.proxy", 200),
        ("0.0.0.0", ("my.proxy",), "localhost", 403),
    ],
)
async def test_a_server_on_loopback_answers_to_its_own_names(
    make_client: ClientMaker, listening: str, allowed: tuple[str, ...], asked: str, status: int
) -> None:
    client = make_client(host=listening, allowed_hosts=allowed)
    for path in ("/health", "/v1/models"):
        response = await client.get(path, headers={"host": asked})
        assert response.status_code == status
        if status == 403:
            assert response.json()["error"]["code"] == "wrong_host"
            assert "--allowed-hosts" in response.json()["error"]["message"]


def test_hosts_are_read_as_browsers_write_them() -> None:
    assert [host_of(h) for h in ("a:1", "A", "[::1]:80", "[::1]", "1.2.3.4:5")] == [
        "a",
        "a",
        "[::1]",
        "[::1]",
        "1.2.3.4",
    ]
    for own in ("localhost", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "a.localhost"):
        assert is_loopback(own)
    for other in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.com", "notlocalhost", "127.1.evil"):
        assert not is_loopback(other)


async def test_a_web_page_cannot_drive_a_server_without_a_key(make_client: ClientMaker, engine: ScriptedEngine) -> None:
    client = make_client()
    for headers in ({**EVIL, "content-type": "text/plain"}, {**EVIL, "content-type": ""}, EVIL, {"origin": "null"}):
        response = await client.post("/v1/completions", json=PROMPT, headers=headers)
        assert response.status_code in (403, 415)
    for path in ("/flush_cache", "/abort_request"):
        assert (await client.post(path, headers=EVIL)).status_code == 403
        assert (await client.get(path)).status_code == 405
    assert engine.submitted == engine.aborted == []
    for same in ("http://localhost", "https://LOCALHOST"):
        assert (await client.post("/v1/completions", json=PROMPT, headers={"origin": same})).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://[", "http://", "", "localhost", "\xff", "ftp://localhost", "http://localhost/"]
)
async def test_an_origin_that_no_browser_writes_is_refused(make_client: ClientMaker, origin: str) -> None:
    headers = {"origin": origin.encode("latin-1")}
    response = await make_client().post("/v1/completions", json=PROMPT, headers=headers)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_origin")


async def test_no_origin_is_allowed_where_none_is_listed(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models", headers=EVIL)
    assert not any(name.startswith("access-control") for name in response.headers)
    asked = {**EVIL, "access-control-request-method": "POST"}
    assert (await client.options("/v1/completions", headers=asked)).status_code == 405


@pytest.mark.parametrize(("listed", "allowed"), [(("https://page.example",), "https://page.example"), (("*",), "*")])
async def test_listed_origins_are_allowed_never_with_credentials(
    make_client: ClientMaker, listed: tuple[str, ...], allowed: str
) -> None:
    client = make_client(cors_origins=listed, api_keys=("key",))
    page = {"origin": "https://page.example"}
    asked = {**page, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = await client.options("/v1/completions", headers=asked)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    for headers, status in ((page, 401), ({**page, "authorization": "Bearer key"}, 200)):
        response = await client.post("/v1/completions", json=PROMPT, headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == allowed
        assert "access-control-allow-credentials" not in response.headers


async def test_other_origins_stay_out_where_some_are_listed(make_client: ClientMaker) -> None:
    client = make_client(cors_origins=("https://page.example",))
    response = await client.post("/v1/completions", json=PROMPT, headers=EVIL)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    page = {"origin": "https://page.example"}
    assert (await client.post("/v1/completions", json=PROMPT, headers=page)).status_code == 200


async def test_head_is_get_without_its_body(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/server_info"):
        head, got = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert (await client.head("/v1/completions")).status_code == 405
    assert (await client.head("/never")).status_code == 404


def test_lists_of_the_settings_reach_the_server() -> None:
    settings = Settings(allowed_hosts="a,b", cors_origins=["https://x"], cache_isolation="api-key")
    assert (settings.allowed_hosts, settings.cors_origins) == (("a", "b"), ("https://x",))
    assert ServerOptions().cors_origins == ServerOptions().allowed_hosts == ()
