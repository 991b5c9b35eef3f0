"""Short stories, fact sheets and drills: running text for plain completion."""

from __future__ import annotations

import random

from list_tasks import WORDS
from tables import (
    ANIMALS,
    CITIES,
    COLORS,
    COLORS_OF,
    COUNTRIES,
    DAYS,
    ELEMENTS,
    FOODS,
    GENERAL,
    HOBBIES,
    JOBS,
    MONTHS,
    NAMES,
    OPPOSITES,
    ORDINALS,
    PETS,
    PLANETS,
)
from turns import article, is_held_out, skewed

HEROES = [
    "fox",
    "rabbit",
    "bear",
    "mouse",
    "owl",
    "cat",
    "dog",
    "frog",
    "duck",
    "horse",
    "lion",
    "wolf",
    "turtle",
    "pig",
    "goat",
    "sheep",
    "bee",
    "elephant",
    "tiger",
    "deer",
]
_TRAITS = ["little", "brave", "curious", "clever", "kind", "happy", "shy", "young", "small", "hungry"]
_PLACES = ["forest", "village", "garden", "meadow", "valley", "castle", "farm", "mountain", "island", "town"]
_THINGS = ["ball", "key", "kite", "hat", "lamp", "book", "drum", "ring", "shell", "map", "bell", "boat"]
_WEATHER = ["sunny", "rainy", "windy", "snowy", "warm", "cold", "foggy"]
_LESSONS = [
    "a friend is worth more than gold",
    "it is good to share",
    "it is brave to ask for help",
    "patience is a virtue",
    "kind words open doors",
    "small steps lead far",
]


def _plot(rng: random.Random, name: str, friend: str, friend_kind: str, thing: str, place: str) -> list[str]:
    """The middle of a story."""
    color = skewed(rng, COLORS[:8])
    plots = [
        [
            f"One day {name} lost {article(color)} {thing}.",
            f"{name} looked everywhere in the {place}, but the {thing} was gone.",
            f"Then {name} met {article(friend_kind)} named {friend}.",
            f'"Can you help me find my {thing}?" asked {name}.',
            f'"Of course," said {friend}.',
            f"Together they found the {thing} under a big tree.",
        ],
        [
            f"One day {name} found {article(color)} {thing} in the {place}.",
            f'"Whose {thing} is this?" asked {name}.',
            f"{article(friend_kind).capitalize()} named {friend} came along and was very sad.",
            f'"I have lost my {thing}," said {friend}.',
            f"{name} gave the {thing} back, and {friend} smiled.",
        ],
        [
            "One day it began to rain and the river rose.",
            f"{article(friend_kind).capitalize()} named {friend} could not swim.",
            f'"Help me!" cried {friend}.',
            f"{name} threw a rope into the water and pulled as hard as possible.",
            f"Soon {friend} was safe.",
        ],
        [
            f"Every day {name} wanted to learn how to {skewed(rng, ['swim', 'sing', 'dance', 'read', 'climb', 'cook'])}.",
            f"{name} tried again and again, but it was too hard.",
            f"{article(friend_kind).capitalize()} named {friend} watched and laughed.",
            f'"Do not give up," said {friend}. "I will show you."',
            f"After {skewed(rng, ['three', 'seven', 'two', 'five'])} days {name} could do it.",
        ],
        [
            f"One day {name} was very hungry.",
            f"There was only a plate of {skewed(rng, FOODS)} in the house.",
            f"Then {article(friend_kind)} named {friend} knocked at the door.",
            f'"I have not eaten for two days," said {friend}.',
            f"{name} cut the food in two, and they ate together.",
        ],
        [
            f"One night {name} saw a light in the {place}.",
            f'"What can that be?" thought {name}.',
            f"It was {article(friend_kind)} named {friend} with {article(color)} lamp.",
            f'"I cannot find my way home," said {friend}.',
            f"{name} knew the way and walked with {friend} until the morning.",
        ],
    ]
    return skewed(rng, plots)


def story(rng: random.Random, hero: str | None = None, name: str | None = None) -> str:
    """A story of about ten sentences about one animal and its friend."""
    hero, name = hero or skewed(rng, HEROES), name or skewed(rng, NAMES[:40])
    friend_kind = skewed(rng, [h for h in HEROES if h != hero])
    friend = skewed(rng, [n for n in NAMES[:40] if n != name])
    place, thing = skewed(rng, _PLACES), skewed(rng, _THINGS)
    start = f"Once upon a time there was {article(skewed(rng, _TRAITS))} {hero} named {name}."
    home = f"{name} lived in {skewed(rng, ['a', 'a small', 'a big', 'an old'])} {place}."
    end = skewed(
        rng,
        [
            f"From that day on, {name} and {friend} were best friends.",
            f"{name} learned that {skewed(rng, _LESSONS)}.",
            f"{name} was very happy and went home.",
        ],
    )
    return " ".join([start, home, *_plot(rng, name, friend, friend_kind, thing, place), end, "The end."])


def diary(rng: random.Random) -> str:
    """A day in somebody's life."""
    name, other = rng.sample(NAMES, 2)
    job, food, city = rng.choice(JOBS), skewed(rng, FOODS), rng.choice(CITIES)
    lines = [
        f"Today is {rng.choice(DAYS)} and the weather is {skewed(rng, _WEATHER)}.",
        f"{name} is {article(job)} and lives in {city}.",
        f"In the morning {name} eats {food} and drinks {skewed(rng, ['tea', 'milk', 'water', 'coffee', 'juice'])}.",
        f"Then {name} goes to work by {skewed(rng, ['train', 'bus', 'car', 'bicycle', 'boat'])}.",
        f"At noon {name} meets {other}, and they talk about {rng.choice(HOBBIES)}.",
        f"In the evening {name} plays with the {rng.choice(PETS)}.",
        f"At night {name} reads a book and goes to bed.",
    ]
    keep = sorted(rng.sample(range(len(lines)), rng.randint(3, len(lines))))
    return " ".join(lines[i] for i in keep)


def fact_sentence(rng: random.Random) -> str:
    """One fact as a sentence, in the wording that completions are asked in."""
    roll = rng.random()
    if roll < 0.35:
        country = rng.choice(list(COUNTRIES))
        return f"The capital of {country} is {COUNTRIES[country][0]}."
    if roll < 0.55:
        name = rng.choice(list(ELEMENTS))
        return f"The chemical symbol for {name} is {ELEMENTS[name][0]}."
    if roll < 0.65:
        thing = rng.choice(list(COLORS_OF))
        return f"The color of {thing} is {COLORS_OF[thing]}."
    if roll < 0.75:
        pair = rng.choice(OPPOSITES)
        word, other = pair if rng.random() < 0.5 else pair[::-1]
        return f"The opposite of {word} is {other}."
    if roll < 0.82:
        i = rng.randrange(8)
        return f"The {ORDINALS[i]} planet from the sun is {PLANETS[i]}."
    if roll < 0.9:
        name = rng.choice(list(ANIMALS))
        return f"A young {name} is called {article(ANIMALS[name][2])}."
    return rng.choice(GENERAL)[1]


def fact_sheet(rng: random.Random) -> str:
    """Facts in the order of their table, so that one leads to the next and none comes twice."""
    countries, elements = list(COUNTRIES), list(ELEMENTS)
    n, roll = rng.randint(1, 8), rng.random()
    if roll < 0.4:
        i = rng.randrange(len(countries))
        return " ".join(f"The capital of {c} is {COUNTRIES[c][0]}." for c in countries[i : i + n])
    if roll < 0.6:
        i = rng.randrange(len(elements))
        return " ".join(f"The chemical symbol for {e} is {ELEMENTS[e][0]}." for e in elements[i : i + n])
    if roll < 0.75:
        i = rng.randrange(len(countries))
        return " ".join(
            f"{c[0].upper() + c[1:]} is in {COUNTRIES[c][1]}, and its capital is {COUNTRIES[c][0]}."
            for c in countries[i : i + n]
        )
    return fact_sentence(rng)


def sequence(rng: random.Random) -> str:
    """A series whose next item is certain."""
    roll = rng.random()
    if roll < 0.5:
        start, step = rng.randint(0, 99), rng.choice([1, 1, 1, 2, 5, 10])
        return ", ".join(str(start + step * i) for i in range(rng.randint(5, 15)))
    if roll < 0.65:
        names = rng.choice([DAYS, MONTHS])
        start = rng.randrange(len(names))
        return ", ".join(names[(start + i) % len(names)] for i in range(rng.randint(4, 12)))
    if roll < 0.75:
        start = rng.randrange(20)
        return rng.choice([", ", " "]).join(chr(97 + i) for i in range(start, 26))
    pattern = rng.sample(WORDS, rng.randint(2, 4))
    return ", ".join((pattern * 8)[: rng.randint(8, 16)])


def _operands(rng: random.Random) -> tuple[int, int]:
    """Two numbers whose sum and difference the scorer does not ask for."""
    while True:
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        if not is_held_out(f"add:{a}:{b}") and not is_held_out(f"sub:{max(a, b)}:{min(a, b)}"):
            return a, b


def sums(rng: random.Random) -> str:
    """Lines of small sums."""
    lines = []
    for _ in range(rng.randint(1, 8)):
        a, b = _operands(rng)
        lines.append(f"{a} + {b} = {a + b}" if rng.random() < 0.6 else f"{max(a, b)} - {min(a, b)} = {abs(a - b)}")
    return "\n".join(lines)


def questions(rng: random.Random) -> str:
    """``Q:``/``A:`` lines with bare answers, the form few-shot prompts have."""
    head, tail = rng.choice([("Q: ", "A: "), ("Question: ", "Answer: ")])
    lines = []
    countries = rng.sample(list(COUNTRIES), 6)
    for country in countries[: rng.randint(1, 6)]:
        roll = rng.random()
        if roll < 0.4:
            question, answer = f"What is the capital of {country}?", COUNTRIES[country][0]
        elif roll < 0.6:
            a, b = _operands(rng)
            question, answer = f"What is {a} + {b}?", str(a + b)
        elif roll < 0.8:
            question, _, answer = rng.choice(GENERAL)
        else:
            name = rng.choice(list(ELEMENTS))
            question, answer = f"What is the chemical symbol for {name}?", ELEMENTS[name][0]
        lines.append(f"{head}{question}\n{tail}{answer}")
    return rng.choice(["\n", "\n\n"]).join(lines)


def running_text(rng: random.Random) -> str:
    """One document for plain completion."""
    roll = rng.random()
    if roll < 0.03:
        words = rng.choice([WORDS, NAMES, ["the", "a", "of", "in", "and", "is", *WORDS]])
        return (
            " ".join(rng.choice(words) for _ in range(rng.randint(1, 6)))
            + rng.choice([".", ":", "", "\n"])
            + " "
            + story(rng)
        )
    if roll < 0.4:
        return story(rng)
    if roll < 0.5:
        return diary(rng)
    if roll < 0.65:
        return fact_sheet(rng)
    if roll < 0.77:
        return sequence(rng)
    if roll < 0.87:
        return sums(rng)
    return questions(rng)
