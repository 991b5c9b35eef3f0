"""Requests that cost a server more than their sender, and what goes wrong on a connection; made once, sent often."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

HOST = b"host: localhost\r\nconnection: close\r\n"


@dataclass(frozen=True)
class Hostile:
    """Bytes to send. ``leave``: seconds after which the sender hangs up, however far the answer is."""

    name: str
    data: bytes
    leave: float | None = None


def request(path: str, body: bytes, method: str = "POST", kind: bytes = b"application/json") -> bytes:
    """Return a whole HTTP request."""
    head = b"%s %s HTTP/1.1\r\n%scontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (method.encode(), path.encode(), HOST, kind, len(body)) + body


def post(path: str, body: Any) -> bytes:
    """Return a POST of ``body`` as JSON."""
    return request(path, body if isinstance(body, bytes) else json.dumps(body).encode())


CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
WORDS = "The quick brown fox jumps over the lazy dog. "


def turn(text: str) -> list[dict[str, Any]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


def _text(size: int, kind: str) -> str:
    return (WORDS if kind == "words" else kind) * (size // len(WORDS if kind == "words" else kind))


MAKERS: dict[str, Callable[[], Any]] = {
    "completion of 1 MB of words": lambda: post(COMPLETIONS, {"prompt": _text(10**6, "words")}),
    "chat of 6 MB of one letter": lambda: post(CHAT, {"messages": turn(_text(6 * 10**6, "a"))}),
    "generate of 6 MB of spaces": lambda: post(GENERATE, {"text": _text(6 * 10**6, " ")}),
    "tokenize 2 MB of emoji": lambda: post("/tokenize", {"prompt": _text(500_000, "🙂")}),
    "tokenize what just fits": lambda: post("/tokenize", {"prompt": _text(14_000, "a"), "return_token_strs": True}),
    "2,048 prompts of 4 KB": lambda: (post(COMPLETIONS, {"prompt": [_text(4000, "words")] * 2048}), 5.0),
    "2,048 prompts of 2 ids": lambda: (post(COMPLETIONS, {"prompt": [[5, 6]] * 2048, "max_tokens": 1}), 0.3),
    "chat of 50,000 messages": lambda: post(CHAT, {"messages": turn("hi") * 50_000}),
    "chat of 50,000 messages of nothing": lambda: post(CHAT, {"messages": turn("") * 50_000}),
    "detokenize 1 MB of nulls": lambda: post("/detokenize", {"tokens": [None] * 200_000}),
    "detokenize 500,000 ids": lambda: post("/detokenize", {"tokens": [5] * 500_000}),
    "completion of 1 MB of nulls": lambda: post(COMPLETIONS, {"prompt": [None] * 200_000}),
    "completion of 190,000 empty lists": lambda: post(COMPLETIONS, {"prompt": [[]] * 190_000}),
    "completion of 500,000 ids": lambda: post(COMPLETIONS, {"prompt": [5] * 500_000}),
    "generate of 100,000 sampling_params": lambda: post(GENERATE, {"text": "x", "sampling_params": [{}] * 100_000}),
    "logit_bias of 100,000": lambda: post(
        COMPLETIONS, {"prompt": "x", "logit_bias": {str(i): 1 for i in range(100_000)}}
    ),
    "30 MB of commas": lambda: post(COMPLETIONS, b"[" + b"1," * 15_000_000 + b"1]"),
    "30 MB of brackets": lambda: post(COMPLETIONS, b"[" * 30_000_000),
    "16 stops of 8 KB": lambda: post(COMPLETIONS, {"prompt": ["x"] * 64, "stop": [f"{i}" * 8192 for i in range(16)]}),
    "16 stops of 1,000, 64 prompts": lambda: post(
        COMPLETIONS,
        {"prompt": ["x"] * 64, "max_tokens": 16, "stop": [f"{i % 10}" * 999 + f"{i:x}" for i in range(16)]},
    ),
    "stream with scores": lambda: post(
        GENERATE,
        {
            "text": "a",
            "stream": True,
            "return_logprob": True,
            "top_logprobs_num": 5,
            "logprob_start_len": 0,
            "sampling_params": {"max_new_tokens": 900, "ignore_eos": True},
        },
    ),
    "128 choices, given up": lambda: (
        post(COMPLETIONS, {"prompt": ["x"] * 16, "n": 128, "max_tokens": 50, "stream": True}),
        0.2,
    ),
    "scores of a whole prompt": lambda: post(
        COMPLETIONS, {"prompt": [5] * 900, "echo": True, "logprobs": 20, "max_tokens": 0}
    ),
    "salts": lambda: post(COMPLETIONS, {"prompt": "x", "max_tokens": 1, "cache_salt": "s" * 1000}),
    "no JSON": lambda: post(COMPLETIONS, b"{not json"),
    "no UTF-8": lambda: post(CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    "nested 100,000 deep": lambda: post(CHAT, b"[" * 100_000),
    "wrong types": lambda: post(CHAT, {"messages": {"a": [1]}, "temperature": "hot", "n": -1, "stop": 5}),
    "a form": lambda: request(COMPLETIONS, b"prompt=x", kind=b"application/x-www-form-urlencoded"),
    "a wrong method": lambda: request(COMPLETIONS, b"", "DELETE"),
    "no such path": lambda: request("/" + "x" * 5000, b"", "GET"),
    "a bare HEAD": lambda: request("/v1/models", b"", "HEAD"),
    "no HTTP": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
    "a head of 1 MB": lambda: (b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 10**6, 1.0),
    "2,000 headers": lambda: (b"GET / HTTP/1.1\r\n" + HOST + b"a: 1\r\n" * 2000 + b"\r\n", 1.0),
    "half a head": lambda: (b"POST /generate HTTP/1.1\r\nhost: loc", 0.1),
    "half a body": lambda: (post(COMPLETIONS, {"prompt": "x" * 100_000})[:50_000], 0.1),
    "chunks that are none": lambda: b"POST /generate HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a page of another origin": lambda: post(COMPLETIONS, {"prompt": "x"}).replace(
        HOST, HOST + b"origin: https://evil.example\r\n"
    ),
    "an origin that is none": lambda: post(COMPLETIONS, {"prompt": "x"}).replace(HOST, HOST + b"origin: http://[\r\n"),
    "another host": lambda: post(COMPLETIONS, {"prompt": "x"}).replace(b"host: localhost", b"host: evil.example"),
}


@cache
def hostile(name: str) -> Hostile:
    """Return the request of that name."""
    made = MAKERS[name]()
    return Hostile(name, *made) if isinstance(made, tuple) else Hostile(name, made)


def garbage(dice: random.Random) -> Hostile:
    """Return a request of random fields and values to a random endpoint."""
    values: list[Any] = [None, True, -1, 2**64, 0.5, "", "x", "\u2028", [], [[]], {}, {"a": None}, [None], "9" * 400]
    names = """model messages prompt text input_ids tokens stream n max_tokens min_tokens temperature top_p top_k seed
        stop stop_token_ids logprobs top_logprobs echo tools sampling_params return_logprob rid cache_salt logit_bias
        continue_final_message response_format stream_options""".split()
    body: dict[str, Any] = {name: dice.choice(values) for name in dice.sample(names, dice.randrange(6))}
    body |= dice.choice([{}, {"prompt": "x"}, {"messages": turn("x")}, {"text": "x"}])
    path = dice.choice([CHAT, COMPLETIONS, GENERATE, "/tokenize", "/detokenize", "/abort_request"])
    body.setdefault("max_tokens", 2)
    return Hostile("garbage", post(path, body), leave=10)
