"""Test cases on the held-out side of the split, and how a reply is judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import corpus
import numbers_tasks as numbers
import talk_tasks as talk
from story_texts import HEROES, fact_sentence, sequence
from style_tasks import STYLES
from tables import NAMES
from tool_tasks import Message, tool_chat
from turns import Maker, Memory, Turn, article, draw, is_held_out

MAX_REPLY = 320
"""Tokens a reply may take; the longest right one, counting far and twice, takes about 280."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to ask, with the reply expected to it."""

    task: str
    expected: str
    messages: list[Message] = field(default_factory=list)
    prompt: str | None = None
    """Plain text to continue; then there are no messages."""
    tools: list[Message] = field(default_factory=list)
    judge: str = "exact"
    """``exact``: the same text. ``start``: begins with it. ``story``: a whole story about the expected words."""

    def passes(self, reply: str) -> bool:
        reply = reply.strip()
        if self.judge == "story":
            return (
                reply.startswith("Once upon a time")
                and reply.endswith("The end.")
                and all(word in reply for word in self.expected.split())
            )
        if self.judge == "start":
            rest = reply[len(self.expected) :]
            return reply.startswith(self.expected) and not rest[:1].isalnum()
        return reply == self.expected.strip()


def _said(turn: Turn) -> list[Message]:
    return [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.answer}]


def _asked(turn: Turn, before: list[Message] | None = None, task: str | None = None, answer: str | None = None) -> Case:
    return Case(task or turn.task, answer or turn.answer, [*(before or []), {"role": "user", "content": turn.user}])


def _test_turn(rng: random.Random, maker: Maker) -> Case:
    if maker is not numbers.follow_up:
        return _asked(draw(maker, rng, Memory(), test=True))
    while True:
        memory = Memory()
        before = _said(draw(numbers.add, rng, memory, test=False))
        turn = numbers.follow_up(rng, memory)
        if turn.task == "follow-up" and is_held_out(turn.key):
            return _asked(turn, before)


def _remember(rng: random.Random) -> Case:
    """Something is told, other things are talked about, then it is asked for."""
    while True:
        memory = Memory()
        told = talk.tell(rng, memory)
        turn = talk.recall_of(rng, memory, next(iter(memory.told)))
        if is_held_out(turn.key):
            break
    before = _said(told)
    for _ in range(rng.randint(0, 6)):
        before += _said(draw(rng.choice([m for m, _ in corpus.PLAIN]), rng, Memory(), test=False))
    return _asked(turn, before)


def _never_told(rng: random.Random) -> Case:
    thing = rng.choice(["name", "city", "color", "food", "pet", "hobby", "number", "word"])
    return _asked(talk.recall_of(rng, Memory(), thing))


def _look_back(rng: random.Random) -> Case:
    """The last or first message is asked for, word for word; most messages are held out."""
    before: list[Message] = []
    for _ in range(rng.randint(1, 5)):
        before += _said(draw(rng.choice([m for m, _ in corpus.PLAIN]), rng, Memory(), test=True))
    return _asked(talk.look_back(rng, before), before)


def _styled(rng: random.Random, style_index: int) -> Case:
    style = STYLES[style_index][0](rng)
    memory = Memory(persona=style.persona)
    persona = style.name == "persona"
    turn = talk.identity(rng, memory) if persona else corpus.styled_turn(rng, memory, style, test=True)
    return _asked(
        turn, [{"role": "system", "content": style.prompt}], f"system prompt: {style.name}", style.rewrite(turn)
    )


def _lookup(rng: random.Random, size: int) -> Case:
    messages = corpus.lookup_chat(rng, size, questions=3, test=True)
    return Case(f"look up among {size}", messages[-1]["content"], messages[:-1])


def _tools(rng: random.Random, result: bool) -> Case:
    while True:
        messages, tools, key = tool_chat(rng)
        if is_held_out(key):
            break
    if result:
        return Case("word a tool's result", messages[3]["content"], messages[:3], tools=tools)
    return Case("call a tool", messages[1]["content"], messages[:1], tools=tools)


def _story(rng: random.Random) -> Case:
    hero, name = rng.choice(HEROES), rng.choice(NAMES)
    user = f"Tell me a story about {article(hero)} named {name}."
    return Case("story", f"{hero} {name}", [{"role": "user", "content": user}], judge="story")


def _complete_fact(rng: random.Random) -> Case:
    while True:
        words = fact_sentence(rng).rstrip(".").split(" ")
        if words[-2] == "is":
            return Case("complete a fact", words[-1], prompt=" ".join(words[:-1]), judge="start")


def _complete_sum(rng: random.Random) -> Case:
    while True:
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        if is_held_out(f"add:{a}:{b}"):
            return Case("complete a sum", str(a + b), prompt=f"{a} + {b} =", judge="start")


def _complete_sequence(rng: random.Random) -> Case:
    while True:
        items = sequence(rng).split(", ")
        if len(items) >= 8:
            return Case("complete a series", ", ".join(items[6:8]), prompt=", ".join(items[:6]) + ",", judge="start")


def _long_chat(rng: random.Random) -> Case:
    """A new question after some fifteen unrelated turns."""
    before: list[Message] = []
    for _ in range(15):
        before += _said(draw(rng.choice([m for m, _ in corpus.PLAIN]), rng, Memory(), test=False))
    return _asked(draw(rng.choice([m for m, _ in corpus.PLAIN]), rng, Memory(), test=True), before, "after a long chat")


def cases(per_task: int, seed: int = 0) -> list[Case]:
    """About ``per_task`` cases of every task, the same for the same seed."""
    rng = random.Random(seed)

    def all_cases() -> Iterator[Case]:
        for maker in [m for m, _ in corpus.PLAIN + corpus.VERBATIM]:
            for _ in range(per_task):
                yield _test_turn(rng, maker)
        for _ in range(per_task):
            yield _remember(rng)
            yield _never_told(rng)
            for _ in range(3):
                yield _look_back(rng)
            for i in range(1, len(STYLES)):
                yield _styled(rng, i)
            for size in (10, 40, 100):
                yield _lookup(rng, size)
            yield _tools(rng, result=False)
            yield _tools(rng, result=True)
            yield _story(rng)
            yield _complete_fact(rng)
            yield _complete_sum(rng)
            yield _complete_sequence(rng)
            yield _long_chat(rng)

    kept: list[Case] = []
    seen: Counter[str] = Counter()
    for case in all_cases():
        seen[case.task] += 1
        if seen[case.task] <= per_task:
            kept.append(case)
    return kept


def prompt_text(case: Case) -> str:
    """The case as the text the model continues."""
    if case.prompt is not None:
        return case.prompt
    return corpus.render(case.messages, case.tools) + f"{corpus.IM_START}assistant\n"
