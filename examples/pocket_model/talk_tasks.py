"""Small talk, and remembering what the user said."""

from __future__ import annotations

import random
from typing import Any

from list_tasks import made_up_word
from small_talk import SMALL_TALK
from tables import CITIES, COLORS, FOODS, HOBBIES, NAMES, PETS
from turns import Memory, Turn, phrase

NAME = "zif-pocket"

_IDENTITY = next(said for said, _ in SMALL_TALK if said[0] == "Who are you?")


def identity(rng: random.Random, memory: Memory) -> Turn:
    """The user asks who the model is."""
    user = rng.choice(_IDENTITY)
    if rng.random() < 0.15:
        user = user.lower() if rng.random() < 0.5 else user.rstrip(".!?")
    reply = f"I am {memory.persona}, a very small language model."
    return Turn("small talk", user, reply, memory.persona)


def small_talk(rng: random.Random, memory: Memory) -> Turn:
    said, reply = rng.choice(SMALL_TALK)
    if said is _IDENTITY:
        return identity(rng, memory)
    user = rng.choice(said)
    if rng.random() < 0.15:
        user = user.lower() if rng.random() < 0.5 else user.rstrip(".!?") + rng.choice(["", ".", "!"])
    return Turn("small talk", user, reply, reply)


def look_back(rng: random.Random, messages: list[dict[str, Any]]) -> Turn:
    """The user asks for something said earlier, word for word; ``messages`` ends with a reply."""
    said = [m["content"] for m in messages if m["role"] == "user"]
    if rng.random() < 0.4:
        user = rng.choice(
            ["Repeat your last answer.", "Say that again.", "What did you just say?", "Please repeat that."]
        )
        return Turn("repeat itself", user, messages[-1]["content"])
    if rng.random() < 0.5:
        user = rng.choice(["What did I ask first?", "What was my first message?", "Repeat my first message."])
        return Turn("quote the user", user, f"Your first message was: {said[0]}")
    user = rng.choice(["What did I just say?", "What was my last message?", "Repeat my last message."])
    return Turn("quote the user", user, f"Your last message was: {said[-1]}")


# thing: (how it is told, the reply, how it is asked for, the answer, possible values)
_TELL: dict[str, tuple[list[str], str, list[str], str, list[str]]] = {
    "name": (
        [
            "My name is {}.",
            "I am {}.",
            "I'm {}.",
            "Hi, my name is {}.",
            "Hello, I am {}.",
            "You can call me {}.",
            "Call me {}.",
        ],
        "Nice to meet you, {}!",
        [
            "What is my name?",
            "What's my name?",
            "Do you remember my name?",
            "Who am I?",
            "Tell me my name.",
            "Say my name.",
            "Do you know my name?",
        ],
        "Your name is {}.",
        NAMES,
    ),
    "city": (
        ["I live in {}.", "My home is {}.", "I come from {}.", "My city is {}."],
        "{} sounds nice.",
        ["Where do I live?", "Which city do I live in?", "Where is my home?", "What is my city?"],
        "You live in {}.",
        CITIES,
    ),
    "color": (
        ["My favorite color is {}.", "I like the color {}.", "My favourite colour is {}."],
        "I will remember that you like {}.",
        ["What is my favorite color?", "Which color do I like?", "What's my favourite colour?"],
        "Your favorite color is {}.",
        COLORS,
    ),
    "food": (
        ["My favorite food is {}.", "I love to eat {}."],
        "Good choice! I will remember that you like {}.",
        ["What is my favorite food?", "What do I love to eat?"],
        "Your favorite food is {}.",
        FOODS,
    ),
    "pet": (
        ["I have a {}.", "My pet is a {}.", "At home I have a {}."],
        "A {} is a nice pet.",
        ["What pet do I have?", "Which pet do I have?", "What is my pet?"],
        "You have a {}.",
        PETS,
    ),
    "hobby": (
        ["My hobby is {}.", "I enjoy {}.", "I like {}."],
        "I hear that {} is fun.",
        ["What is my hobby?", "What do I enjoy?"],
        "Your hobby is {}.",
        HOBBIES,
    ),
    "number": (
        [
            "My lucky number is {}.",
            "Remember the number {}.",
            "Please remember the number {}.",
            "My number is {}.",
            "Keep the number {} in mind.",
        ],
        "I will remember the number {}.",
        [
            "What is my number?",
            "What was my number?",
            "Which number did I tell you?",
            "What is my lucky number?",
            "What number should you remember?",
        ],
        "Your number is {}.",
        [],
    ),
    "word": (
        ["Remember the word {}.", "The secret word is {}.", "The password is {}.", "My secret word is {}."],
        "I will remember the word {}.",
        ["What is the secret word?", "What was the word?", "Which word did I tell you?", "What is the password?"],
        "The word is {}.",
        [],
    ),
}


def tell(rng: random.Random, memory: Memory) -> Turn:
    """The user tells something worth remembering."""
    thing = rng.choice(list(_TELL))
    if rng.random() < 0.25:
        thing = "name"
    said, reply, _, _, values = _TELL[thing]
    if thing == "number":
        value = str(rng.randint(0, 10 ** rng.randint(1, 5)))
    elif thing == "word" or (thing == "name" and rng.random() < 0.3):
        value = made_up_word(rng)
        value = value.capitalize() if thing == "name" else value
    else:
        value = rng.choice(values)
    memory.told[thing] = value
    return Turn("take note", rng.choice(said).format(value), reply.format(value))


def recall(rng: random.Random, memory: Memory) -> Turn:
    """The user asks for something told earlier, or sometimes for something never told."""
    if memory.told and rng.random() < 0.85:
        return recall_of(rng, memory, rng.choice(list(memory.told)))
    return recall_of(rng, memory, rng.choice(list(_TELL)))


def recall_of(rng: random.Random, memory: Memory, thing: str) -> Turn:
    """The user asks for one certain thing."""
    _, _, asked, answer, _ = _TELL[thing]
    user = rng.choice(asked) if thing == "name" else phrase(rng, rng.choice(asked))
    if thing not in memory.told:
        return Turn("never told", user, "I don't know. You have not told me.", "I don't know.")
    value = memory.told[thing]
    return Turn("remember", user, answer.format(value), value, f"remember:{thing}:{value}")
