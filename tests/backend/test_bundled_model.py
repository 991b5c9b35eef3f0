"""The bundled model: its files, its tokenizer and chat template, and what it can do when zif serves it."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zif import LLM, SamplingParams, bundled
from zif.tokenizer import ChatTemplate, load_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "examples" / "pocket_model"))

import cases
import corpus
import score
import tool_tasks

if TYPE_CHECKING:
    from cases import Case

TOKENIZER = load_tokenizer(bundled.path())


def template() -> ChatTemplate:
    assert TOKENIZER.chat_template is not None
    return TOKENIZER.chat_template


def test_the_package_stays_under_ten_megabytes() -> None:
    assert sum(f.stat().st_size for f in bundled.path().iterdir() if f.is_file()) <= 10_000_000


@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_digits_are_tokens_of_their_own() -> None:
    assert len(TOKENIZER.encode("120+7")) == 5


@pytest.mark.parametrize("seed", range(20))
def test_the_chat_template_writes_what_the_model_was_trained_on(seed: int) -> None:
    rng = random.Random(seed)
    messages = corpus.conversation(rng)
    assert template().render(messages, add_generation_prompt=False) == corpus.render(messages)
    messages, tools, _ = tool_tasks.tool_chat(rng)
    messages.insert(0, {"role": "system", "content": "Be polite."})
    assert template().render(messages, tools=tools, add_generation_prompt=False) == corpus.render(messages, tools)


def test_the_chat_template_takes_content_parts_and_tool_calls() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    function = {"name": "f", "arguments": {"x": 1}}
    call: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": function}],
    }
    assert template().render([{"role": "user", "content": parts}, call]) == (
        "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"
        f"{tool_tasks.call_text('f', {'x': 1})}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_answers_questions_that_it_was_not_trained_on() -> None:
    with LLM(device="cpu", progress=False) as llm:

        def answer(asked: Sequence[Case]) -> list[str]:
            prompts = [cases.prompt_text(case) for case in asked]
            return [c.text for c in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=cases.MAX_REPLY))]

        result = score.score(answer, cases.cases(per_task=2))
    assert result["mean_accuracy"] >= 0.97, result
