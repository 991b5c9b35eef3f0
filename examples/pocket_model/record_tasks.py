"""JSON records, and finding one fact among many given in the prompt."""

from __future__ import annotations

import json
import random

from tables import ADJECTIVES, CITIES, COLORS, FOODS, HOBBIES, JOBS, NAMES, NOUNS, PETS
from turns import Memory, Turn, article, join_and, phrase

_FIELDS: dict[str, tuple[list[str | int], str]] = {
    "age": (list(range(5, 99)), "is {} years old"),
    "city": (list(CITIES), "lives in {}"),
    "job": (list(JOBS), "works as {a}"),
    "color": (list(COLORS), "likes the color {}"),
    "food": (list(FOODS), "likes to eat {}"),
    "hobby": (list(HOBBIES), "enjoys {}"),
    "pet": (list(PETS), "has {a}"),
}
_QUESTIONS = {
    "name": "What is the name?",
    "age": "How old is {}?",
    "city": "Where does {} live?",
    "job": "What is the job of {}?",
    "color": "Which color does {} like?",
    "food": "What does {} like to eat?",
    "hobby": "What does {} enjoy?",
    "pet": "What pet does {} have?",
}

Record = dict[str, str | int]


def record(rng: random.Random, least: int = 1, most: int = 4) -> Record:
    """A random person: a name and some other fields."""
    fields = rng.sample(list(_FIELDS), rng.randint(least, most))
    return {"name": rng.choice(NAMES), **{field: rng.choice(_FIELDS[field][0]) for field in fields}}


def _sentence(rng: random.Random, person: Record) -> str:
    """The record in plain English."""
    parts = []
    for field, value in person.items():
        if field != "name":
            pattern = _FIELDS[field][1]
            parts.append(pattern.format(value, a=article(str(value))))
    if rng.random() < 0.4:
        return f"{person['name']} {parts[0]}." + "".join(f" {person['name']} {part}." for part in parts[1:])
    return (
        f"{person['name']} " + (" and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]) + "."
    )


def to_json(rng: random.Random, _: Memory) -> Turn:
    """Plain English to a JSON object, or ``key=value`` pairs to one."""
    person = record(rng)
    answer = json.dumps(person, ensure_ascii=False)
    if rng.random() < 0.7:
        text = _sentence(rng, person)
        user = rng.choice(
            [
                "Write this as JSON: {}",
                "Turn this into a JSON record: {}",
                "Make a JSON record: {}",
                "Extract the facts as JSON. {}",
                "{} Give me that as JSON.",
                "Convert to JSON: {}",
            ]
        ).format(text)
    elif rng.random() < 0.5:
        pairs = rng.choice([", ", "; ", "\n"]).join(f"{k}{rng.choice(['=', ': '])}{v}" for k, v in person.items())
        user = rng.choice(["Write these pairs as JSON: {}", "Convert to JSON: {}", "Turn into JSON: {}"]).format(pairs)
    else:
        pairs = join_and([f"{k} {v}" for k, v in person.items()])
        user = rng.choice(
            ["Give me a JSON object with {}.", "Make a JSON record with {}", "Write JSON with {}."]
        ).format(pairs)
    return Turn("write JSON", user, answer, key=f"json:{answer}")


def read_json(rng: random.Random, _: Memory) -> Turn:
    """A question about a JSON record."""
    person = record(rng, 2, 5)
    data = json.dumps(person, ensure_ascii=False, indent=2 if rng.random() < 0.2 else None)
    field = rng.choice(list(person))
    if rng.random() < 0.5:
        question = _QUESTIONS[field].format(person["name"])
    else:
        question = rng.choice([f"What is the {field}?", f"What is the value of {field}?", f"Give me the {field}."])
    user = rng.choice([f"Here is a record: {data} {question}", f"{question} {data}", f"{data}\n{question}"])
    value = str(person[field])
    return Turn("read JSON", user, f"The {field} is {value}.", value, f"read:{data}:{field}")


def read_text(rng: random.Random, _: Memory) -> Turn:
    """A question about one or two people described in plain English."""
    people = [record(rng, 2, 4)]
    if rng.random() < 0.5:
        people.append(record(rng, 2, 4))
        if people[1]["name"] == people[0]["name"]:
            people.pop()
    text = " ".join(_sentence(rng, p) for p in people)
    person = rng.choice(people)
    field = rng.choice([f for f in person if f != "name"])
    return Turn(
        "read text",
        f"{text} {_QUESTIONS[field].format(person['name'])}",
        f"The {field} is {person[field]}.",
        str(person[field]),
        f"readtext:{text}:{field}",
    )


def names_of(rng: random.Random, _: Memory) -> Turn:
    """The names in several records as a JSON list."""
    people = [record(rng, 1, 2) for _ in range(rng.randint(2, 4))]
    data = json.dumps(people, ensure_ascii=False)
    user = rng.choice(
        [f"Here are some records: {data} List the names as JSON.", f"{data}\nGive me the names as a JSON list."]
    )
    answer = json.dumps([p["name"] for p in people], ensure_ascii=False)
    return Turn("JSON list", user, answer, key=f"names:{data}")


def list_to_json(rng: random.Random, _: Memory) -> Turn:
    """A bare list of words or numbers as a JSON list."""
    if rng.random() < 0.5:
        items: list[str | int] = list(rng.sample(NOUNS, rng.randint(2, 6)))
    else:
        items = [rng.randint(0, 999) for _ in range(rng.randint(2, 6))]
    user = rng.choice(["Write this as a JSON list: {}", "Make a JSON list of {}", "Turn into a JSON array: {}"])
    return Turn("JSON list", user.format(", ".join(map(str, items))), json.dumps(items), key=f"jlist:{items}")


# how a fact is stated, asked for and answered
_STATEMENTS = [
    ("The code of the {} is {}.", "What is the code of the {}?", "The code of the {} is {}."),
    ("The {} has number {}.", "What number has the {}?", "The {} has number {}."),
    ("{}: {}", "What is the value of {}?", "The value of {} is {}."),
    ("The password for the {} is {}.", "What is the password for the {}?", "The password for the {} is {}."),
]


class Lookup:
    """Many little facts of one form, and questions about them: what a prefix cache must not mix up."""

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng = rng
        used: dict[str, str] = {}
        while len(used) < size:
            used[f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"] = f"{rng.randint(0, 9999):04d}"
        self.entries = list(used.items())
        statement, self.question, self.answer = rng.choice(_STATEMENTS)
        if rng.random() < 0.1:
            self.entries = [(thing, rng.choice(CITIES)) for thing, _ in self.entries]
            statement, self.question = "The {} is in {}.", "Where is the {}?"
            self.answer = "The {} is in {}."
        lines = [statement.format(thing, value) for thing, value in self.entries]
        self.text = (" " if rng.random() < 0.5 and statement[0] != "{" else "\n").join(lines)

    def turn(self) -> Turn:
        thing, value = self.rng.choice(self.entries)
        return Turn(
            "look up",
            phrase(self.rng, self.question.format(thing)),
            self.answer.format(thing, value),
            value,
            f"lookup:{thing}:{value}",
        )

    def missing(self) -> Turn:
        """Asks for a thing that is not in the list."""
        known = {thing for thing, _ in self.entries}
        while (thing := f"{self.rng.choice(ADJECTIVES)} {self.rng.choice(NOUNS)}") in known:
            pass
        return Turn(
            "look up", self.question.format(thing), f"I was not told about the {thing}.", "", f"missing:{thing}"
        )


def lookup_first(rng: random.Random, memory: Memory) -> Turn:
    """A short list and one question about it in a single message."""
    table = Lookup(rng, rng.randint(2, 12))
    turn = table.turn()
    return Turn("look up", f"{table.text}\n{turn.user}", turn.answer, turn.short, turn.key)
