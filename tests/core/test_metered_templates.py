"""Templates that would loop for ever, or fill the memory, are ended; those of real models do not notice."""

from __future__ import annotations

import time

import psutil
import pytest

from zif.contract.errors import InvalidRequest, InvalidSettings
from zif.tokenizer.chat_template import ChatTemplate

DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = EXPRESSION %}{% endfor %}"
HOSTILE = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that search": (
        "{% set t = 'a' * 10000000 %}{% for a in range(99999) %}{% if 'b' in t %}{% endif %}{% endfor %}"
    ),
    "recursive loop": "{% for a in [1] recursive %}{{ loop(range(99999)|list) }}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n else 1 }}{% endmacro %}{{ m(100) }}",
    "joined": DOUBLING.replace("EXPRESSION", "ns.x ~ ns.x"),
    "added": DOUBLING.replace("EXPRESSION", "ns.x + ns.x"),
    "joined in a block": DOUBLING.replace(
        "{% set ns.x = EXPRESSION %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    ),
    "lists": DOUBLING.replace("'ab'", "[1]").replace("EXPRESSION", "ns.x + ns.x"),
    "replaced": DOUBLING.replace("EXPRESSION", "ns.x|replace('b', ns.x)"),
    "replaced by a method": DOUBLING.replace("EXPRESSION", "ns.x.replace('b', ns.x)"),
    "joined by a method": DOUBLING.replace("EXPRESSION", "ns.x.join([ns.x, ns.x, ns.x])"),
    "joined by a filter": DOUBLING.replace("EXPRESSION", "[ns.x, ns.x]|join(ns.x)"),
    "times": "{{ 'a' * 10**10 }}",
    "list times": "{% set x = [0] * 10**10 %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "factorial": "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "centred": "{{ 'a'|center(10**10) }}",
    "centred by a method": "{{ 'a'.center(10**10) }}",
    "filled": "{{ 'a'.zfill(10**10) }}",
    "tabs": "{{ 'a\t\t\t'.expandtabs(10**9) }}",
    "indented": "{{ 'a\nb'|indent(10**9) }}",
    "formatted": "{{ '%9999999999d' % 1 }}",
    "formatted by a filter": "{{ '%9999999999d'|format(1) }}",
    "formatted by a method": "{{ '{:9999999999}'.format(1) }}",
    "batched": "{{ [1]|batch(10**9, 'x')|list }}",
    "sliced": "{{ [1]|slice(10**9)|list }}",
    "words": "{{ lipsum(100000) }}",
    "output": "{% for i in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_ended(name: str) -> None:
    template = ChatTemplate(HOSTILE[name])
    begin, before = time.thread_time(), psutil.Process().memory_info().rss
    with pytest.raises((InvalidRequest, InvalidSettings)) as caught:
        template.render([{"role": "user", "content": "hello " * 100}])
    assert time.thread_time() - begin < 8
    assert psutil.Process().memory_info().rss - before < 600 * 2**20
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "source", ["{{" + "(" * 5000, "{% if a %}" * 3000, "x" * (2**20 + 1)], ids=["deep", "nested", "long"]
)
def test_a_template_that_cannot_be_compiled_says_so(source: str) -> None:
    with pytest.raises(InvalidSettings, match="the chat template"):
        ChatTemplate(source).check()


def test_a_long_conversation_is_written_whole() -> None:
    source = (
        "{% for m in messages %}{% if loop.index0 == 0 and m.role == 'system' %}{{ m.content|trim }}{% endif %}"
        "{% set content = m.content.split('</think>')[-1].lstrip('\\n')|replace('a', 'b') %}"
        "{{ '<|' ~ m.role ~ '|>' + content + ('<|end|>' if not loop.last else '<|last|>') }}"
        "{% for c in m.content[:20] %}{{ c }}{% endfor %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "a" * 100}] * 5000
    text = ChatTemplate(source).render(messages)
    assert text.count("<|end|>") == 4999
    assert text.endswith("<|last|>" + "a" * 20)
    one = ChatTemplate(source).render([{"role": "user", "content": "a" * 1_000_000}])
    assert one.startswith("<|user|>" + "b" * 1_000_000)
