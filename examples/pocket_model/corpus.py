"""Documents: conversations over all tasks and running text, rendered, tokenized and marked for training."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import fact_tasks as facts
import list_tasks as lists
import numbers_tasks as numbers
import numpy as np
import numpy.typing as npt
import record_tasks as records
import talk_tasks as talk
import unknown_tasks as beyond
from story_texts import HEROES, diary, running_text, story
from style_tasks import STYLES, Style, neutral
from tables import NAMES
from tokenizers import Tokenizer
from tool_tasks import Message, tool_chat
from turns import Maker, Memory, Turn, article, draw, is_held_out

MAX_TOKENS = 2048
TRAINED = 0x8000
"""Flag on a token: the model learns to produce it. The other tokens are only read."""

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Makers whose replies are plain sentences, so that every style applies, and their weights.
PLAIN: list[tuple[Maker, float]] = [
    (facts.capital, 4),
    (facts.continent, 1.5),
    (facts.element, 3),
    (facts.animal, 2),
    (facts.color, 1),
    (facts.opposite, 1.5),
    (facts.calendar, 2),
    (facts.planet, 1.2),
    (facts.general, 2),
    (facts.kind_of_thing, 1),
    (beyond.unknown, 6),
    (beyond.statement, 1.5),
    (beyond.noise, 1.5),
    (talk.small_talk, 8),
    (numbers.add, 6),
    (numbers.add_long, 2),
    (numbers.subtract, 4),
    (numbers.times_table, 1.2),
    (numbers.divide, 1),
    (numbers.compare, 1.5),
    (numbers.parity, 0.7),
    (numbers.neighbour, 1),
    (numbers.word_problem, 1.5),
    (lists.extreme, 1.5),
    (lists.pick, 2),
    (records.read_text, 2),
]
# Makers whose replies are the text asked for and nothing else.
VERBATIM: list[tuple[Maker, float]] = [
    (numbers.multiply, 2),
    (numbers.running_sum, 2),
    (numbers.count, 2),
    (numbers.number_words, 1.5),
    (numbers.roman, 1),
    (numbers.follow_up, 1.5),
    (lists.sort_numbers, 6),
    (lists.sort_words, 6),
    (lists.count_items, 2),
    (lists.remove, 1.5),
    (lists.copy, 5),
    (lists.spell, 2),
    (lists.letters, 1.5),
    (lists.reverse_word, 5),
    (lists.reverse_digits, 3),
    (lists.reverse_list, 3),
    (lists.change_case, 2),
    (records.to_json, 4),
    (records.read_json, 3),
    (records.names_of, 1),
    (records.list_to_json, 1),
    (records.lookup_first, 3),
    (facts.listing, 0.7),
]
_ALL = PLAIN + VERBATIM
_LISTS: list[tuple[Maker, float]] = [
    (lists.sort_words, 2),
    (lists.sort_numbers, 1),
    (lists.reverse_list, 1),
    (lists.remove, 1),
    (numbers.count, 1),
    (numbers.number_words, 1),
]


def _maker(rng: random.Random, choices: list[tuple[Maker, float]]) -> Maker:
    makers, weights = zip(*choices, strict=True)
    picked: Maker = rng.choices(makers, weights)[0]
    return picked


def render(messages: Sequence[Message], tools: Sequence[Message] = (), *, sort_keys: bool = False) -> str:
    """The conversation as the model reads it: the chat template in Python."""
    text = ""
    if tools:
        system = ""
        if messages[0]["role"] == "system":
            system, messages = messages[0]["content"] + "\n\n", messages[1:]
        listed = "\n".join(json.dumps(tool, ensure_ascii=False, sort_keys=sort_keys) for tool in tools)
        text = (
            f"{IM_START}system\n{system}You can call these tools:\n{listed}\nTo call one, write <tool_call>\n"
            f'{{"name": ..., "arguments": {{...}}}}\n</tool_call>{IM_END}\n'
        )
    return text + "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)


def styled_turn(rng: random.Random, memory: Memory, style: Style, test: bool) -> Turn:
    """A turn whose reply the style can rewrite."""
    while True:
        listed = not style.needs_short and rng.random() < 0.1
        turn = draw(_maker(rng, _LISTS if listed else PLAIN), rng, memory, test)
        if turn.short or not style.needs_short:
            return turn


def _next_turn(rng: random.Random, memory: Memory, style: Style, first: bool) -> Turn:
    if style.name == "persona" and rng.random() < (0.3 if first else 0.1):
        return talk.identity(rng, memory)
    roll = rng.random()
    if roll < (0.04 if first else 0.14):
        return draw(talk.tell, rng, memory, test=False)
    if roll < (0.055 if first else 0.26) and not style.needs_short:
        return draw(talk.recall, rng, memory, test=False)
    if style.name in ("neutral", "persona"):
        return draw(_maker(rng, _ALL), rng, memory, test=False)
    return styled_turn(rng, memory, style, test=False)


def conversation(rng: random.Random) -> list[Message]:
    """A chat of one to forty turns, with or without a system prompt."""
    messages: list[Message] = []
    memory = Memory()
    style = neutral(rng)
    if rng.random() < 0.4:
        style = rng.choices([make for make, _ in STYLES], [w for _, w in STYLES])[0](rng)
        prompt = style.prompt
        if style.name == "neutral" and rng.random() < 0.2:
            memory.told["name"] = name = rng.choice(NAMES)
            prompt += " " + rng.choice(
                ["The user's name is {}.", "The user is called {}.", "You are talking to {}."]
            ).format(name)
        messages.append({"role": "system", "content": prompt})
        memory.persona = style.persona
    turns = rng.choices([1, rng.randint(2, 4), rng.randint(5, 12), rng.randint(13, 40)], [55, 32, 10, 3])[0]
    for i in range(turns):
        if i and style.name in ("neutral", "persona") and rng.random() < 0.04 and len(messages[-2]["content"]) < 200:
            turn = talk.look_back(rng, messages)
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.answer}]
            continue
        turn = _next_turn(rng, memory, style, first=i == 0)
        answer = style.rewrite(turn) if turn.short or not style.needs_short else turn.answer
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": answer}]
    return messages


def lookup_chat(
    rng: random.Random, size: int | None = None, questions: int | None = None, test: bool = False
) -> list[Message]:
    """Many facts first, in the system prompt or from the user, then questions about them."""
    scattered = size is None and rng.random() < 0.25
    size = size or int(math.exp(rng.uniform(math.log(1 if scattered else 2), math.log(6 if scattered else 120))))
    table = records.Lookup(rng, size)
    text = table.text
    if scattered:
        filler = [diary(rng) for _ in range(rng.randint(2, 14))]
        for line in text.split("\n"):
            filler.insert(rng.randint(0, len(filler)), line)
        text = " ".join(filler)
    if rng.random() < 0.35:
        messages: list[Message] = [{"role": "system", "content": rng.choice([text, f"You know these facts.\n{text}"])}]
    else:
        intro = rng.choice(["Remember these facts.\n", "Here are some facts.\n", "Read this.\n", ""])
        messages = [
            {"role": "user", "content": intro + text},
            {"role": "assistant", "content": "OK, I will remember that."},
        ]
        if rng.random() < 0.2:
            messages.insert(0, {"role": "system", "content": neutral(rng).prompt})
    for _ in range(questions or rng.randint(1, 14)):
        turn = table.missing() if rng.random() < 0.06 and not test else table.turn()
        if not test and is_held_out(turn.key):
            continue
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.answer}]
    return messages


def story_chat(rng: random.Random) -> list[Message]:
    """A request for a story, with the hero or its name given or left open."""
    hero, name = rng.choice(HEROES), rng.choice(NAMES)
    roll = rng.random()
    if roll < 0.4:
        user = rng.choice(
            [
                "Tell me a story about {}.",
                "Tell me a story about {}",
                "Write a short story about {}.",
                "Can you tell me a story about {}?",
                "I want a story about {}.",
            ]
        ).format(article(hero))
        text = story(rng, hero)
    elif roll < 0.7:
        user = rng.choice(["Tell me a story about {} named {}.", "Write a story about {} called {}."]).format(
            article(hero), name
        )
        text = story(rng, hero, name)
    else:
        user = rng.choice(
            [
                "Tell me a story.",
                "Tell me a story",
                "Write a short story.",
                "Can you tell me a story?",
                "A story, please.",
                "Do you know a story?",
                "tell me a story",
                "Please tell me another story.",
            ]
        )
        text = story(rng)
    return [{"role": "user", "content": user}, {"role": "assistant", "content": text}]


def document(rng: random.Random) -> str:
    """One training document, rendered."""
    roll = rng.random()
    if roll < 0.66:
        return render(conversation(rng))
    if roll < 0.76:
        return render(lookup_chat(rng))
    if roll < 0.82:
        messages, tools, key = tool_chat(rng)
        while is_held_out(key):
            messages, tools, key = tool_chat(rng)
        if rng.random() < 0.25:
            messages = conversation(rng)[:8]
        elif rng.random() < 0.4:
            messages.insert(0, {"role": "system", "content": neutral(rng).prompt})
        return render(messages, tools, sort_keys=rng.random() < 0.2)
    if roll < 0.86:
        return render(story_chat(rng))
    return running_text(rng) + ENDOFTEXT


def pack(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """Tokens of all documents in a row, flagged with `TRAINED`, and where each document starts.

    Trained are the replies of the assistant with their ``<|im_end|>``, and running text whole. The first token of a
    document is never a target.
    """
    encoded = [e.ids[:MAX_TOKENS] for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    tokens = np.fromiter((t for ids in encoded for t in ids), np.uint16, int(lengths.sum()))

    position = np.arange(len(tokens))
    im_start, assistant = tokenizer.token_to_id(IM_START), tokenizer.token_to_id("assistant")
    assert im_start is not None and assistant is not None, "the tokenizer must have one token for each role"
    is_turn = tokens == im_start
    turn_start = np.maximum.accumulate(np.where(is_turn, position, -1))
    in_document = np.repeat(starts, lengths)
    in_turn = turn_start >= in_document
    role = tokens[np.minimum(turn_start + 1, len(tokens) - 1)]
    said = in_turn & (role == assistant) & (position - turn_start >= 3)
    trained = (said | ~in_turn) & (position != in_document)
    return tokens | np.where(trained, TRAINED, 0).astype(np.uint16), starts
