"""Texts to ids: the same whichever way they take, refused before they are tokenized where they cannot fit."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_tokenizer
from zif.contract.errors import ContextLengthExceeded, InvalidRequest
from zif.frontend.texts import GENEROUS, PIECE, SHORT, Texts
from zif.tokenizer import Tokenizer

TOKENIZERS = [Tokenizer(tiny_tokenizer.byte_level()), Tokenizer(tiny_tokenizer.byte_level(), bos_token_id=0)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["plain", "bos"])
@given(st.lists(st.text(), max_size=4), st.booleans())
def test_a_batch_has_the_ids_of_each_text(tokenizer: Tokenizer, texts: list[str], special: bool) -> None:
    alone = [tokenizer.encode(text, add_special_tokens=special) for text in texts]
    assert tokenizer.encode_batch(texts, add_special_tokens=special) == alone
    for text, ids in zip(texts, alone, strict=True):
        assert tokenizer.count(text) == len(tokenizer.encode(text, add_special_tokens=False))
        assert len(text) <= tokenizer.longest_token * len(ids) or not text


@pytest.mark.parametrize("lengths", [[5], [SHORT + 1], [3, SHORT, 1], [PIECE + 5, 2], [SHORT] * 70, []])
async def test_long_and_many_texts_keep_their_ids_and_order(lengths: list[int]) -> None:
    tokenizer = TOKENIZERS[0]
    texts = [("hello there " * (length // 12 + 1))[:length] for length in lengths]
    encoded = await Texts(tokenizer).encode(texts, 10**6, add_special_tokens=True)
    assert encoded == [tokenizer.encode(text) for text in texts]


async def test_long_ids_are_written_as_short_ones() -> None:
    tokenizer, texts = TOKENIZERS[0], Texts(TOKENIZERS[0])
    ids = tokenizer.encode("hello there 🙂<|end|>" * 500)
    assert len(ids) > SHORT
    for skip in (True, False):
        assert await texts.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)
    assert await texts.each(tokenizer.token_text, ids) == [tokenizer.token_text(i) for i in ids]
    with pytest.raises(InvalidRequest, match=r"token ids at once; at most 800 are taken"):
        texts.check_count(ids, 100)


async def test_a_text_that_cannot_fit_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(tiny_tokenizer.byte_level())
    longest = tokenizer.longest_token

    def tokenized(*_: object, **__: object) -> Any:
        raise AssertionError("tokenized")

    for name in ("encode", "encode_batch", "count"):
        monkeypatch.setattr(Tokenizer, name, tokenized)
    with pytest.raises(ContextLengthExceeded, match=rf"100 tokens, which are {100 * longest} characters at the most"):
        await Texts(tokenizer).encode(["short", "x" * (100 * longest + 1)], 100, add_special_tokens=True)


async def test_a_text_that_overfills_the_context_early_is_tokenized_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, seen = Tokenizer(tiny_tokenizer.byte_level()), []
    count = Tokenizer.count

    def counted(self: Tokenizer, text: str) -> int:
        seen.append(len(text))
        return count(self, text)

    monkeypatch.setattr(Tokenizer, "count", counted)
    with pytest.raises(ContextLengthExceeded, match=r"the first 8000 characters of the prompt, which has 9000, have"):
        await Texts(tokenizer).encode(["?" * 9000], 1000, add_special_tokens=True)
    assert seen == [GENEROUS * 1000]


async def test_other_work_goes_on_while_a_megabyte_is_tokenized() -> None:
    gaps, tokenizer = [], TOKENIZERS[0]

    async def beat() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = asyncio.create_task(beat())
    began = time.perf_counter()
    ids = await Texts(tokenizer).encode(["hello there, " * 80_000], 10**7, add_special_tokens=True)
    took = time.perf_counter() - began
    beating.cancel()
    assert len(ids[0]) > 10**5
    assert max(gaps) < max(0.1, took / 2)  # `encode` would hold the lock for all of it


@pytest.mark.parametrize("method", ["encode", "encode_batch", "count", "token_bytes"])
@pytest.mark.parametrize("kind", ["panic", "exception"])
def test_what_the_tokenizer_cannot_do_is_the_requests_fault(method: str, kind: str) -> None:
    class PanicException(BaseException):
        """As PyO3 names it."""

    class Broken:
        decoder = None

        def __getattr__(self, name: str) -> Any:
            def fail(*_: object, **__: object) -> None:
                raise PanicException("no entry found") if kind == "panic" else Exception("no entry found")

            return fail

    tokenizer = Tokenizer(Broken())  # type: ignore[arg-type]
    argument: Any = {"encode": "x", "count": "x", "encode_batch": ["x"]}.get(method, 1)
    with pytest.raises(InvalidRequest, match=r"the tokenizer cannot .*: no entry found"):
        getattr(tokenizer, method)(argument)


def test_an_interrupt_is_nobodys_fault() -> None:
    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer(Interrupted()).encode("x")  # type: ignore[arg-type]
