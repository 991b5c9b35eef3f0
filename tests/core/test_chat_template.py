"""Chat templates see what Hugging Face shows them, and can do no more than write text."""

from __future__ import annotations

from typing import Any

import pytest

from tiny_tokenizer import CHAT_TEMPLATE
from zif.contract.errors import InvalidRequest, InvalidSettings
from zif.tokenizer import ChatTemplate

HELLO = {"role": "user", "content": "hello"}


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source, special_tokens={"bos_token": "<s>"}).render(messages or (HELLO,), **options)


def test_messages_and_generation_prompt() -> None:
    reply = {"role": "assistant", "content": "hi"}
    assert render(CHAT_TEMPLATE, HELLO, reply) == "<|user|>hello<|end|><|assistant|>hi<|end|><|assistant|>"
    assert render(CHAT_TEMPLATE, HELLO, add_generation_prompt=False) == "<|user|>hello<|end|>"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}x", "<s>x"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{% generation %}kept{% endgeneration %}", "kept"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ tools is none }}", "True"),
        ("{{ enable_thinking }}", "False"),
        ("{{ messages[0].content }}", "hello"),
    ],
)
def test_what_templates_are_given(source: str, text: str) -> None:
    assert render(source, variables={"enable_thinking": False}) == text


def test_variables_cannot_replace_the_messages() -> None:
    assert render("{{ messages | length }}", variables={"messages": []}) == "1"


def test_parts_are_joined_and_tool_arguments_parsed() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    assert render("{{ messages[0].content }}", parts) == "one\ntwo"
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
    assert render("{{ messages[0].tool_calls[0].function.arguments.x }}", call) == "1"


def test_another_template_for_tools() -> None:
    template = ChatTemplate("plain", tool_source="{{ tools[0].name }}")
    assert template.render([HELLO]) == "plain"
    assert template.render([HELLO], tools=[{"name": "f"}]) == "f"


def test_the_last_message_can_stay_open() -> None:
    begun = {"role": "assistant", "content": "The answer is "}
    text = render(CHAT_TEMPLATE, HELLO, begun, add_generation_prompt=False, continue_final_message=True)
    assert text == "<|user|>hello<|end|><|assistant|>The answer is "
    with pytest.raises(InvalidRequest, match="add_generation_prompt"):
        render(CHAT_TEMPLATE, HELLO, begun, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="does not show"):
        render("nothing", HELLO, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.more }}", "no attribute"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_what_goes_wrong_in_a_template_is_the_request_s_fault(source: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        render(source)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "'image_url' is not supported"),
        ({"role": "user", "content": [7]}, "'int' is not supported"),
        ({"role": "assistant", "tool_calls": [1]}, "object with a function"),
    ],
)
def test_messages_that_cannot_be_read(message: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        render("{{ messages }}", message)


def test_a_broken_template_is_found_when_it_is_loaded() -> None:
    with pytest.raises(InvalidSettings, match="not valid Jinja"):
        ChatTemplate("{% for %}").check()
    with pytest.raises(InvalidRequest, match="must not be empty"):
        ChatTemplate("x").render([])
