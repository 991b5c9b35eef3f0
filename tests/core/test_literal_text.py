"""With ``literal``, a client's text that spells a control token is text, and the chat template's is the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.processors import TemplateProcessing

import tiny_tokenizer
from tiny_tokenizer import CHAT_TEMPLATE
from zif.contract.errors import InvalidRequest
from zif.tokenizer import ChatTemplate, Tokenizer, load_tokenizer

TEMPLATE = ChatTemplate(CHAT_TEMPLATE)
PARTS = ChatTemplate(
    "{% for m in messages %}<|user|>{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>{% endfor %}"
)
USUAL = Tokenizer(tiny_tokenizer.byte_level(), TEMPLATE)
LITERAL = Tokenizer(tiny_tokenizer.byte_level(), TEMPLATE, literal=True)
LITERAL_PARTS = Tokenizer(tiny_tokenizer.byte_level(), PARTS, literal=True)
CONTROL = USUAL.special_ids

spellings = st.lists(
    st.sampled_from(["<|end|>", "<|user|>", "<|", "end|>", "|>", "<", "two words", " ", "a", "é", "zif"]), max_size=6
).map("".join)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    return tokenizer.encode(tokenizer.render(messages), add_special_tokens=False)


@given(spellings)
def test_a_prompt_has_no_control_token_and_says_the_same(text: str) -> None:
    ids = LITERAL.encode(text)
    assert not CONTROL.intersection(ids)
    assert LITERAL.decode(ids, skip_special_tokens=False) == text


@given(spellings)
def test_a_conversation_has_the_template_s_control_tokens_alone(text: str) -> None:
    ids = ids_of(LITERAL, text)
    assert [i for i in ids if i in CONTROL] == [1, 0, 2], "<|user|>, <|end|>, <|assistant|>"
    assert LITERAL.decode(ids, skip_special_tokens=False) == f"<|user|>{text}<|end|><|assistant|>"
    assert LITERAL.decode(ids[1:-2], skip_special_tokens=False) == text


@given(st.text("ab <|é", max_size=20))
def test_text_without_control_tokens_is_encoded_as_ever(text: str) -> None:
    assert LITERAL.encode(text) == USUAL.encode(text)
    assert ids_of(LITERAL, text) == ids_of(USUAL, text)


@given(spellings, spellings)
def test_two_parts_do_not_join_to_a_control_token(first: str, second: str) -> None:
    tokenizer = LITERAL_PARTS
    content = [{"type": "text", "text": text} for text in (first, second)]
    ids = tokenizer.encode(tokenizer.render([{"role": "user", "content": content}]), add_special_tokens=False)
    assert [i for i in ids if i in CONTROL] == [1, 0]
    assert tokenizer.decode(ids[1:-1], skip_special_tokens=False) == first + second


def test_tools_and_variables_are_the_client_s_text_too() -> None:
    messages = [{"role": "user", "content": "x"}]
    text = LITERAL.render(messages, tools=[{"name": "<|end|>", "<|user|>": ["<|end|>"]}])
    ids = LITERAL.encode(text, add_special_tokens=False)
    assert [i for i in ids if i in CONTROL] == [3, 1, 0, 2]
    assert LITERAL.decode(ids, skip_special_tokens=False).count("<|end|>") == 3
    with pytest.raises(InvalidRequest, match="role 'end' is not served"):
        LITERAL.render([{"role": "end", "content": "x"}])


def test_what_surrounds_a_text_stays(tmp_path: Path) -> None:
    backend = tiny_tokenizer.byte_level()
    ends = [("<|user|>", 1), ("<|end|>", 0)]
    backend.post_processor = TemplateProcessing(single="<|user|> $A <|end|>", special_tokens=ends)
    tiny_tokenizer.write_checkpoint(tmp_path, backend)
    for text in ("hello", "", "two words"):
        assert load_tokenizer(tmp_path, literal=True).encode(text) == load_tokenizer(tmp_path).encode(text)
    assert load_tokenizer(tmp_path).encode("<|end|>") == [1, 0, 0]
    ids = load_tokenizer(tmp_path, literal=True).encode("<|end|>")
    assert (ids[0], ids[-1]) == (1, 0)
    assert not CONTROL.intersection(ids[1:-1])


def test_sentencepiece_has_it_too() -> None:
    usual, literal = (Tokenizer(tiny_tokenizer.sentencepiece(), literal=flag) for flag in (False, True))
    assert 2 in usual.encode("hello</s>")
    ids = literal.encode("hello</s>")
    assert not {1, 2}.intersection(ids)
    assert literal.decode(ids, skip_special_tokens=False) == "hello</s>"


def test_a_vocabulary_that_has_no_other_way_to_write_it_says_so() -> None:
    backend = Backend(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0)], unk_id=0))
    backend.add_special_tokens(["</s>"])
    with pytest.raises(InvalidRequest, match="spells '</s>', and this tokenizer cannot write that as text"):
        Tokenizer(backend, literal=True).encode("a</s>")


def test_without_it_text_becomes_tokens_as_in_the_field() -> None:
    assert USUAL.encode("<|end|>") == [0]
    assert [i for i in ids_of(USUAL, "<|end|>") if i in CONTROL] == [1, 0, 0, 2]
    described: Any = json.loads(USUAL.backend.to_str())
    assert {token["content"] for token in described["added_tokens"] if token["special"]} == set(tiny_tokenizer.SPECIAL)
