"""Short questions with answers from the tables."""

from __future__ import annotations

import random

from tables import (
    ANIMALS,
    COLORS_OF,
    COUNTRIES,
    DAYS,
    ELEMENTS,
    GENERAL,
    MONTH_DAYS,
    MONTHS,
    OPPOSITES,
    ORDINALS,
    PLANETS,
)
from turns import Memory, Turn, article, phrase

CONTINENTS = sorted({continent for _, continent in COUNTRIES.values()})


def _turn(rng: random.Random, task: str, key: str, forms: list[str], answer: str, short: str) -> Turn:
    """Asks one fact in one of ``forms``; fact and form together are held out, so the fact itself is always taught."""
    form = rng.randrange(len(forms))
    return Turn(task, phrase(rng, forms[form]), answer, short, f"{key}:{form}" if form else "")


def _upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def capital(rng: random.Random, _: Memory) -> Turn:
    country = rng.choice(list(COUNTRIES))
    city = COUNTRIES[country][0]
    if rng.random() < 0.65:
        forms = [
            f"What is the capital of {country}?",
            f"What's the capital of {country}?",
            f"Name the capital of {country}.",
            f"Which city is the capital of {country}?",
            f"Can you tell me the capital of {country}?",
            f"Do you know the capital of {country}?",
            f"Capital of {country}?",
            f"Tell me the capital city of {country}.",
            f"{_upper_first(country)}: what is its capital?",
        ]
        return _turn(rng, "capitals", f"capital:{country}", forms, f"The capital of {country} is {city}.", city)
    forms = [
        f"Which country has the capital {city}?",
        f"{city} is the capital of which country?",
        f"What country is {city} the capital of?",
    ]
    return _turn(rng, "capitals", f"country:{city}", forms, f"{city} is the capital of {country}.", country)


def continent(rng: random.Random, _: Memory) -> Turn:
    country = rng.choice(list(COUNTRIES))
    where = COUNTRIES[country][1]
    verb = "are" if country in ("the Netherlands", "the Philippines") else "is"
    forms = [
        f"On which continent {verb} {country}?",
        f"Which continent {verb} {country} in?",
        f"What continent {verb} {country} on?",
        f"Where {verb} {country}?",
    ]
    return _turn(rng, "continents", f"continent:{country}", forms, f"{_upper_first(country)} {verb} in {where}.", where)


def element(rng: random.Random, _: Memory) -> Turn:
    name = rng.choice(list(ELEMENTS))
    symbol, number = ELEMENTS[name]
    roll = rng.random()
    if roll < 0.45:
        forms = [
            f"What is the chemical symbol for {name}?",
            f"What is the symbol of {name}?",
            f"Chemical symbol of {name}?",
            f"Tell me the chemical symbol for {name}.",
            f"Which symbol stands for {name}?",
        ]
        return _turn(rng, "elements", f"symbol:{name}", forms, f"The chemical symbol for {name} is {symbol}.", symbol)
    if roll < 0.75:
        forms = [
            f"Which element has the symbol {symbol}?",
            f"What element is {symbol}?",
            f"What does the symbol {symbol} stand for?",
        ]
        return _turn(rng, "elements", f"element:{name}", forms, f"{symbol} is the symbol for {name}.", name)
    forms = [
        f"What is the atomic number of {name}?",
        f"Atomic number of {name}?",
        f"Which atomic number does {name} have?",
    ]
    return _turn(rng, "elements", f"atomic:{name}", forms, f"The atomic number of {name} is {number}.", str(number))


def animal(rng: random.Random, _: Memory) -> Turn:
    name = rng.choice(list(ANIMALS))
    legs, sound, young = ANIMALS[name]
    roll = rng.random()
    if roll < 0.4:
        forms = [
            f"How many legs does {article(name)} have?",
            f"How many legs has {article(name)}?",
            f"Tell me how many legs {article(name)} has.",
        ]
        return _turn(
            rng,
            "animals",
            f"legs:{name}",
            forms,
            f"{_upper_first(article(name))} has {legs or 'no'} legs.",
            str(legs or "no"),
        )
    if roll < 0.7 and sound:
        forms = [
            f"What sound does {article(name)} make?",
            f"What does {article(name)} say?",
            f"What noise does {article(name)} make?",
        ]
        return _turn(rng, "animals", f"sound:{name}", forms, f"{_upper_first(article(name))} says {sound}.", sound)
    forms = [f"What is a young {name} called?", f"What is a baby {name} called?", f"What do you call a baby {name}?"]
    return _turn(rng, "animals", f"young:{name}", forms, f"A young {name} is called {article(young)}.", young)


def color(rng: random.Random, _: Memory) -> Turn:
    thing = rng.choice(list(COLORS_OF))
    forms = [
        f"What colour is {thing}?",
        f"What color is {thing}?",
        f"Which colour does {thing} have?",
        f"Tell me the colour of {thing}.",
    ]
    return _turn(
        rng, "colours", f"color:{thing}", forms, f"{_upper_first(thing)} is {COLORS_OF[thing]}.", COLORS_OF[thing]
    )


def opposite(rng: random.Random, _: Memory) -> Turn:
    pair = rng.choice(OPPOSITES)
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    forms = [
        f"What is the opposite of {word}?",
        f"What's the opposite of {word}?",
        f"Give me the opposite of {word}.",
        f"Opposite of {word}?",
    ]
    return _turn(rng, "opposites", f"opposite:{word}", forms, f"The opposite of {word} is {other}.", other)


def calendar(rng: random.Random, _: Memory) -> Turn:
    """Days and months: what follows, what precedes, the n-th, how many days."""
    kind, names = rng.choice([("day", DAYS), ("month", MONTHS)])
    i = rng.randrange(len(names))
    roll = rng.random()
    if roll < 0.35:
        forms = [
            f"Which {kind} comes after {names[i]}?",
            f"What {kind} is after {names[i]}?",
            f"What comes after {names[i]}?",
            f"Which {kind} follows {names[i]}?",
        ]
        after = names[(i + 1) % len(names)]
        return _turn(rng, "calendar", f"after:{names[i]}", forms, f"{after} comes after {names[i]}.", after)
    if roll < 0.65:
        forms = [
            f"Which {kind} comes before {names[i]}?",
            f"What {kind} is before {names[i]}?",
            f"What comes before {names[i]}?",
        ]
        before = names[i - 1]
        return _turn(rng, "calendar", f"before:{names[i]}", forms, f"{before} comes before {names[i]}.", before)
    if roll < 0.85 or kind == "day":
        span = "week" if kind == "day" else "year"
        forms = [
            f"What is the {ORDINALS[i]} {kind} of the {span}?",
            f"Which {kind} is the {ORDINALS[i]} of the {span}?",
        ]
        return _turn(
            rng,
            "calendar",
            f"nth:{names[i]}",
            forms,
            f"The {ORDINALS[i]} {kind} of the {span} is {names[i]}.",
            names[i],
        )
    forms = [f"How many days does {names[i]} have?", f"How many days are in {names[i]}?"]
    return _turn(
        rng, "calendar", f"days:{names[i]}", forms, f"{names[i]} has {MONTH_DAYS[i]} days.", str(MONTH_DAYS[i])
    )


def planet(rng: random.Random, _: Memory) -> Turn:
    i = rng.randrange(len(PLANETS))
    if rng.random() < 0.5:
        forms = [
            f"What is the {ORDINALS[i]} planet from the sun?",
            f"Which planet is {ORDINALS[i]} from the sun?",
            f"Name the {ORDINALS[i]} planet.",
        ]
        return _turn(
            rng, "planets", f"planet:{i}", forms, f"The {ORDINALS[i]} planet from the sun is {PLANETS[i]}.", PLANETS[i]
        )
    if rng.random() < 0.2:
        forms = [
            "Name the planets of the solar system.",
            "What are the planets?",
            "List all planets.",
            "Which planets are there?",
        ]
        return _turn(rng, "planets", "planets", forms, f"{', '.join(PLANETS)}.", ", ".join(PLANETS))
    i = min(i, 6)
    forms = [f"Which planet comes after {PLANETS[i]}?", f"What planet is after {PLANETS[i]}?"]
    return _turn(
        rng, "planets", f"planetafter:{i}", forms, f"{PLANETS[i + 1]} comes after {PLANETS[i]}.", PLANETS[i + 1]
    )


def listing(rng: random.Random, _: Memory) -> Turn:
    """Lists known by heart."""
    subject, items = rng.choice(
        [
            ("days of the week", DAYS),
            ("months of the year", MONTHS),
            ("seasons", ["spring", "summer", "autumn", "winter"]),
            ("continents", [*CONTINENTS, "Antarctica"]),
        ]
    )
    forms = [
        f"Name the {subject}.",
        f"What are the {subject}?",
        f"List the {subject}.",
        f"Which {subject} are there?",
        f"Can you list the {subject}?",
    ]
    return _turn(rng, "lists by heart", f"list:{subject}", forms, ", ".join(items) + ".", ", ".join(items))


def general(rng: random.Random, _: Memory) -> Turn:
    question, answer, short = rng.choice(GENERAL)
    return Turn("general facts", phrase(rng, question), answer, short)


def kind_of_thing(rng: random.Random, _: Memory) -> Turn:
    """Membership: is X a country, an element, an animal, a planet, a month?"""
    kinds = {
        "a country": [c for c in COUNTRIES if not c.startswith("the ")],
        "an element": list(ELEMENTS),
        "an animal": list(ANIMALS),
        "a planet": PLANETS,
        "a month": MONTHS,
        "a day of the week": DAYS,
    }
    kind = rng.choice(list(kinds))
    thing = rng.choice(kinds[rng.choice([kind, rng.choice(list(kinds))])])
    yes = thing in kinds[kind]
    answer = f"{'Yes' if yes else 'No'}, {thing} is {'' if yes else 'not '}{kind}."
    forms = [f"Is {thing} {kind}?", f"Do you think {thing} is {kind}?", f"{_upper_first(thing)}: is that {kind}?"]
    return _turn(rng, "kind of thing", f"kind:{thing}:{kind}", forms, answer, "Yes" if yes else "No")
