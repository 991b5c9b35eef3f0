"""Messages as clients send them reach every family's template in a form that it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from chat_templates import CALLING, CHATTING, REFUSING, SPECIAL_TOKENS
from zif.contract.errors import InvalidRequest
from zif.tokenizer import ChatTemplate

TEMPLATES = {name: ChatTemplate(source, special_tokens=SPECIAL_TOKENS) for name, source in CHATTING.items()}
every = pytest.mark.parametrize("name", CHATTING)
calling = pytest.mark.parametrize("name", CALLING)


def user(content: Any = "What is the weather?") -> dict[str, Any]:
    return {"role": "user", "content": content}


def call(arguments: Any = '{"city": "Paris"}', **fields: Any) -> dict[str, Any]:
    """An assistant's call as OpenAI's client writes it out, with all that is null."""
    function = {"name": "get_weather", "arguments": arguments}
    return {
        **dict.fromkeys(("content", "refusal", "audio", "function_call")),
        "role": "assistant",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
        **fields,
    }


def answer(content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": content}


@calling
def test_a_call_without_content_is_written_as_a_call(name: str) -> None:
    text = TEMPLATES[name].render([user(), call(), answer(), {"role": "assistant", "content": "It is sunny."}])
    for words in ("get_weather", "city", "Paris", "sunny", "It is sunny."):
        assert words in text
    assert "None" not in text
    assert "{'" not in text
    assert text == TEMPLATES[name].render(
        [user(), call({"city": "Paris"}, content=""), answer(), {"role": "assistant", "content": "It is sunny."}]
    )


@every
def test_an_assistant_that_said_nothing_says_nothing(name: str) -> None:
    silent = {"role": "assistant", "content": None, "tool_calls": None, "refusal": None}
    text = TEMPLATES[name].render([user("one"), silent, user("two")])
    assert "None" not in text
    assert text == TEMPLATES[name].render([user("one"), {"role": "assistant", "tool_calls": []}, user("two")])
    assert text == TEMPLATES[name].render([user("one"), {"role": "assistant", "content": ""}, user("two")])


@calling
@pytest.mark.parametrize("arguments", ['{"city": "Par', "Paris, of course", "[1, 2]", '"Paris"', "", None, "NaN", [1]])
def test_a_call_that_a_model_got_wrong_can_stay_in_the_conversation(name: str, arguments: Any) -> None:
    text = TEMPLATES[name].render([user(), call(arguments), answer()])
    assert "get_weather" in text
    if arguments and "Par" in arguments:
        assert "Par" in text


@every
def test_text_and_parts_of_text_say_the_same(name: str) -> None:
    part = [{"type": "text", "text": "hello there"}]
    assert TEMPLATES[name].render([user(part)]) == TEMPLATES[name].render([user("hello there")])
    assert "hello there" in TEMPLATES[name].render([user("hello there")])
    two = TEMPLATES[name].render([user([*part, {"type": "text", "text": "and you"}])])
    assert "hello there" in two
    assert "and you" in two
    assert "'text'" not in two


@calling
def test_parts_are_read_from_tools_too(name: str) -> None:
    conversation = [user(), call(), answer([{"type": "text", "text": "sunny"}, {"type": "text", "text": "spells"}])]
    text = TEMPLATES[name].render(conversation)
    assert "sunny" in text
    assert "spells" in text
    assert "'text'" not in text


def test_a_part_keeps_what_a_client_put_beside_its_text() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{{ p.cache_control or '' }}{% endfor %}{% endfor %}"
    )
    assert template.render([user([{"type": "text", "text": "x", "cache_control": "y"}])]) == "xy"


@every
@given(content=st.text("iab<|m_>\n é", max_size=6))
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_a_message_left_open_ends_where_its_content_does(name: str, content: str) -> None:
    opened = TEMPLATES[name].render(
        [user("i"), {"role": "assistant", "content": content}],
        add_generation_prompt=False,
        continue_final_message=True,
    )
    shown = content.lstrip() if name == "gemma" else content
    # What stands before the content is what stands before any other.
    other = TEMPLATES[name].render([user("i"), {"role": "assistant", "content": "@@"}], add_generation_prompt=False)
    assert opened == other[: other.index("@@")] + shown


def test_what_cannot_be_left_open() -> None:
    def leave_open(source: str, message: dict[str, Any]) -> str:
        return ChatTemplate(source).render([user(), message], add_generation_prompt=False, continue_final_message=True)

    with pytest.raises(InvalidRequest, match="tool_calls cannot be continued"):
        leave_open(CHATTING["qwen"], call())
    with pytest.raises(InvalidRequest, match="does not show"):
        leave_open("{{ messages[0].content }}", {"role": "assistant", "content": "x"})
    parts = {"role": "assistant", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b "}]}
    assert leave_open(CHATTING["parts"], parts).endswith("<assistant>a b ")


def test_developers_speak_as_the_system_where_their_role_is_unknown() -> None:
    conversation = [{"role": "developer", "content": "Be kind."}, user()]
    assert TEMPLATES["qwen"].render(conversation).startswith("<|im_start|>system\nBe kind.")
    assert "developer" in TEMPLATES["llama"].render(conversation), "this one writes any role"


@pytest.mark.parametrize(
    ("name", "conversation", "words"),
    [
        ("gemma", [{"role": "system", "content": "x"}, user()], "System role not supported"),
        ("mistral", [user(), user()], "roles must alternate"),
        ("mistral", [user(), {"role": "critic", "content": "x"}], "only user, assistant and tool"),
    ],
)
def test_what_a_template_refuses_is_refused_in_its_words(
    name: str, conversation: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        TEMPLATES[name].render(conversation)
    with pytest.raises(InvalidRequest, match="takes nothing"):
        ChatTemplate(REFUSING).render([user()])


def test_reasoning_goes_by_either_name() -> None:
    said = [TEMPLATES["qwen"].render([user(), {"role": "assistant", "content": "4", key: "2 + 2"}]) for key in
            ("reasoning", "reasoning_content")]  # fmt: skip
    assert said[0] == said[1]
    assert "<think>\n2 + 2\n</think>\n\n4" in said[0]


def test_documents_reach_the_template() -> None:
    template = ChatTemplate("{{ documents | tojson }}")
    documents = [{"title": "a", "text": "b"}]
    assert json.loads(template.render([user()], documents=documents)) == documents
    assert json.loads(template.render([user()], variables={"documents": documents})) == documents
    assert template.render([user()]) == "null"


@every
def test_plain_conversations_are_written_as_hugging_face_writes_them(name: str) -> None:
    conversation = [user("one"), {"role": "assistant", "content": "two"}, user("three")]
    theirs = conversation if name != "parts" else [
        {**message, "content": [{"type": "text", "text": message["content"]}]} for message in conversation
    ]  # fmt: skip
    rendered, _ = render_jinja_template([theirs], chat_template=CHATTING[name], add_generation_prompt=True,
                                        **SPECIAL_TOKENS)  # fmt: skip
    assert TEMPLATES[name].render(conversation) == rendered[0]


def test_messages_are_not_written_to() -> None:
    conversation = [user(), call(), answer()]
    before = json.dumps(conversation)
    TEMPLATES["qwen"].render(conversation)
    assert json.dumps(conversation) == before
