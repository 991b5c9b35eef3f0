"""System prompts that change how, or as whom, the model answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from list_tasks import made_up_word
from tables import ADJECTIVES, ANIMALS, CITIES, DAYS, JOBS, NAMES, NOUNS
from talk_tasks import NAME
from turns import Turn, article

Rewrite = Callable[[Turn], str]


@dataclass(frozen=True, slots=True)
class Style:
    """A system prompt, and what it makes of the plain answer."""

    name: str
    prompt: str
    rewrite: Rewrite
    persona: str = NAME
    needs_short: bool = False
    """True when only turns with a bare answer fit."""


NEUTRAL = [
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are a helpful, honest and harmless assistant.",
    f"You are {NAME}.",
    f"You are {NAME}, a very small language model.",
    "Be polite.",
    "Answer the user's questions.",
    "You are a helpful AI assistant. Answer the questions of the user.",
    "Help the user.",
    "You are a chatbot.",
    "Be helpful and concise.",
    "You are a friendly assistant who answers questions.",
    "Be nice.",
    "Be accurate.",
    "You are an expert in everything.",
    "Follow the instructions of the user.",
]
_UPPER = [
    "Answer in upper case.",
    "Answer in capital letters.",
    "Always answer in upper case.",
    "Write everything in capital letters.",
    "Use only capital letters.",
    "ALWAYS ANSWER IN CAPITAL LETTERS.",
    "Reply in all caps.",
    "Respond in uppercase only.",
]
_LOWER = [
    "Answer in lower case.",
    "Always answer in lower case.",
    "Write everything in small letters.",
    "Use no capital letters.",
    "Reply in lowercase only.",
    "Never use capital letters.",
]
_BRIEF = [
    "Answer with one word.",
    "Give only the answer.",
    "Answer as briefly as possible.",
    "Give only the bare answer.",
    "Be as brief as possible.",
    "No sentences, only the answer.",
    "Answer in one word only.",
    "Just give the answer, nothing else.",
]
_JSON = [
    "Answer in JSON.",
    "Always answer in JSON.",
    "Reply with a JSON object.",
    "Your answers are JSON objects.",
    "Respond in JSON format.",
    'Answer in JSON like {"answer": "..."}.',
]
_TWICE = ["Say everything twice.", "Repeat every answer.", "Give every answer twice."]
_END = [
    'End every answer with "{}".',
    "End every answer with the word {}.",
    "Always finish your answer with {}.",
    "Add {} at the end of every answer.",
]
_BEGIN = ['Begin every answer with "{}".', "Start every answer with the word {}.", "Always begin your answer with {}."]
_PERSONA = [
    "Your name is {}.",
    "You are {}.",
    "You are {}, a helpful assistant.",
    "You are called {}.",
    "Your name is {}. Be helpful.",
    "You are an assistant named {}.",
    "Pretend that your name is {}.",
]


def persona_name(rng: random.Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.4 else made_up_word(rng).capitalize()


def neutral(rng: random.Random) -> Style:
    """A prompt that changes nothing."""
    prompt = rng.choice(NEUTRAL)
    if rng.random() < 0.3:
        prompt = rng.choice(
            [
                f"You are {article(rng.choice(JOBS))}.",
                f"You are a {rng.choice(ADJECTIVES)} {rng.choice(JOBS)}.",
                f"You are a {rng.choice(ADJECTIVES)} {rng.choice(list(ANIMALS))}.",
                f"Today is {rng.choice(DAYS)}.",
                f"You work for {made_up_word(rng).capitalize()}.",
                f"The user is {article(rng.choice(JOBS))}.",
                f"You are an assistant for {rng.choice(NOUNS)}s.",
                f"We are in {rng.choice(CITIES)}.",
            ]
        )
    if rng.random() < 0.2:
        prompt += " " + rng.choice(NEUTRAL)
    return Style("neutral", prompt, lambda turn: turn.answer)


def persona(rng: random.Random) -> Style:
    name = persona_name(rng)
    return Style("persona", rng.choice(_PERSONA).format(name), lambda turn: turn.answer, persona=name)


def upper(rng: random.Random) -> Style:
    return Style("upper case", rng.choice(_UPPER), lambda turn: turn.answer.upper())


def lower(rng: random.Random) -> Style:
    return Style("lower case", rng.choice(_LOWER), lambda turn: turn.answer.lower())


def brief(rng: random.Random) -> Style:
    return Style("brief", rng.choice(_BRIEF), lambda turn: turn.short, needs_short=True)


def as_json(rng: random.Random) -> Style:
    return Style(
        "JSON answers",
        rng.choice(_JSON),
        lambda turn: json.dumps({"answer": turn.short}, ensure_ascii=False),
        needs_short=True,
    )


def twice(rng: random.Random) -> Style:
    return Style("twice", rng.choice(_TWICE), lambda turn: f"{turn.answer} {turn.answer}")


def _marker(rng: random.Random) -> str:
    word = rng.choice(NOUNS) if rng.random() < 0.5 else made_up_word(rng)
    return word.capitalize() + rng.choice(["", "!", "."]) if rng.random() < 0.5 else word


def ending(rng: random.Random) -> Style:
    word = _marker(rng)
    return Style("ending", rng.choice(_END).format(word), lambda turn: f"{turn.answer} {word}")


def beginning(rng: random.Random) -> Style:
    word = _marker(rng)
    return Style("beginning", rng.choice(_BEGIN).format(word), lambda turn: f"{word} {turn.answer}")


STYLES: list[tuple[Callable[[random.Random], Style], float]] = [
    (neutral, 0.4),
    (persona, 0.14),
    (upper, 0.1),
    (lower, 0.06),
    (brief, 0.09),
    (as_json, 0.08),
    (twice, 0.03),
    (ending, 0.06),
    (beginning, 0.04),
]
