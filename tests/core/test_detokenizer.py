"""Streams of tokens give the text that the whole gives, and no broken character on the way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

import tiny_tokenizer
from zif.contract.errors import InvalidRequest
from zif.tokenizer import Detokenizer, Tokenizer

BYTE_LEVEL = Tokenizer(tiny_tokenizer.byte_level())
SENTENCEPIECE = Tokenizer(tiny_tokenizer.sentencepiece())
WORDPIECE = Tokenizer(tiny_tokenizer.wordpiece())

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30)


def drain(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


def split_emoji() -> list[int]:
    """Four tokens of a byte each."""
    ids = [BYTE_LEVEL.backend.token_to_id(c) for c in "ðŁĻĤ"]
    assert BYTE_LEVEL.decode(ids) == "🙂"
    return ids


@given(texts)
def test_byte_level_text_survives_the_stream(text: str) -> None:
    parts = drain(BYTE_LEVEL.detokenizer(), BYTE_LEVEL.encode(text))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@given(texts)
def test_sentencepiece_text_survives_the_stream(text: str) -> None:
    ids = SENTENCEPIECE.encode(text)
    assert "".join(drain(SENTENCEPIECE.detokenizer(), ids)) == SENTENCEPIECE.backend.decode(ids)


@given(st.lists(st.integers(0, BYTE_LEVEL.vocab_size - 1), max_size=20), st.booleans())
def test_any_ids_give_what_decoding_them_at_once_gives(ids: list[int], skip: bool) -> None:
    text = "".join(drain(BYTE_LEVEL.detokenizer(skip_special_tokens=skip), ids))
    assert text == BYTE_LEVEL.decode(ids, skip_special_tokens=skip)
    whole = BYTE_LEVEL.backend.decode(ids, skip_special_tokens=skip)
    assert text in (whole, whole.removesuffix("\ufffd")), "less a character that the end cuts off"


@given(st.lists(st.integers(0, SENTENCEPIECE.vocab_size - 1), max_size=8), st.lists(st.integers(259, 272), max_size=8))
def test_output_is_what_it_adds_to_the_prompt(prompt: list[int], ids: list[int]) -> None:
    before = SENTENCEPIECE.decode(prompt)
    added = "".join(drain(SENTENCEPIECE.detokenizer(prompt), ids))
    whole = SENTENCEPIECE.decode([*prompt, *ids])
    assert before + added == whole


def test_a_split_character_comes_with_its_last_byte() -> None:
    assert drain(BYTE_LEVEL.detokenizer(), split_emoji()) == ["", "", "", "🙂", ""]


def test_a_character_cut_by_the_end_is_not_there() -> None:
    assert drain(BYTE_LEVEL.detokenizer(), split_emoji()[:3]) == ["", "", "", ""]
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode("h") + split_emoji()[:3]) == "h"


def test_a_broken_character_does_not_wait() -> None:
    first = split_emoji()[0]
    hello = BYTE_LEVEL.encode("h")
    assert drain(BYTE_LEVEL.detokenizer(), [first, *hello]) == ["", "\ufffdh", ""]


def test_a_prompt_may_end_within_a_character() -> None:
    emoji = split_emoji()
    assert drain(BYTE_LEVEL.detokenizer(emoji[:2]), emoji[2:]) == ["", "🙂", ""]
    assert drain(BYTE_LEVEL.detokenizer(emoji), emoji) == ["", "", "", "🙂", ""]


def test_leading_space_belongs_to_the_text_but_not_to_its_beginning() -> None:
    hello = SENTENCEPIECE.encode("hello")
    assert "".join(drain(SENTENCEPIECE.detokenizer(), hello)) == "hello"
    assert "".join(drain(SENTENCEPIECE.detokenizer(hello), hello)) == " hello"
    bos = SENTENCEPIECE.backend.token_to_id("<s>")
    assert "".join(drain(SENTENCEPIECE.detokenizer([bos]), hello)) == "hello"


def test_special_tokens_are_text_only_when_asked_for() -> None:
    ids = BYTE_LEVEL.encode("hello<|end|>there")
    assert "".join(drain(BYTE_LEVEL.detokenizer(), ids)) == "hellothere"
    assert "".join(drain(BYTE_LEVEL.detokenizer(skip_special_tokens=False), ids)) == "hello<|end|>there"


def test_added_tokens_stand_for_themselves() -> None:
    ids = BYTE_LEVEL.encode("two words")
    assert len(ids) == 1
    assert BYTE_LEVEL.token_bytes(ids[0]) == b"two words"


def test_ids_beyond_the_vocabulary_are_silent() -> None:
    assert drain(BYTE_LEVEL.detokenizer(), [BYTE_LEVEL.vocab_size + 5]) == ["", ""]


def test_decoders_that_look_at_neighbours_are_served_too() -> None:
    ids = WORDPIECE.encode("hello worldly lows")
    assert "".join(drain(WORDPIECE.detokenizer(), ids)) == WORDPIECE.decode(ids) == "hello worldly lows"
    assert WORDPIECE.backend.decode(ids) == "hello worldly lows"
    assert "".join(drain(WORDPIECE.detokenizer(ids[:1]), ids[1:])) == " worldly lows"
    assert WORDPIECE.token_text(ids[0]) == "hello"


def test_metaspace_decoder_has_a_table() -> None:
    backend = Backend.from_str(json.dumps(json.loads(tiny_tokenizer.sentencepiece().to_str())))
    backend.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("hello world")
    assert "".join(drain(tokenizer.detokenizer(), ids)) == tokenizer.decode(ids) == "hello world"


def test_token_text_spells_bytes_that_are_no_character() -> None:
    assert BYTE_LEVEL.token_text(split_emoji()[0]) == r"bytes:\xf0"


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        BYTE_LEVEL.encode("broken \ud800")


@given(
    st.lists(st.integers(0, BYTE_LEVEL.vocab_size - 1), max_size=20),
    st.lists(st.integers(1, 6), min_size=20, max_size=20),
    st.booleans(),
)
def test_tokens_in_pieces_give_the_same_text(ids: list[int], sizes: list[int], skip: bool) -> None:
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        known = [i for i in ids if i < tokenizer.vocab_size]
        whole, pieces = (tokenizer.detokenizer(skip_special_tokens=skip) for _ in range(2))
        one_by_one = "".join(map(whole.push, known)) + whole.flush()
        text, rest = "", list(known)
        for size in sizes:
            text += pieces.push_all(rest[:size])
            rest = rest[size:]
        assert text + pieces.flush() == one_by_one
