"""Sorting, picking from lists, copying and reversing."""

from __future__ import annotations

import random
import string

from tables import ADJECTIVES, CITIES, COLORS, EMOJI, FOODS, FOREIGN, HOBBIES, NAMES, NOUNS, ORDINALS, PETS, VERBS
from turns import Memory, Turn, phrase

WORDS = sorted({*ADJECTIVES, *NOUNS, *COLORS, *PETS, *FOODS, *HOBBIES, *VERBS})


def made_up_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing, such as "bortel"."""
    word = ""
    for _ in range(rng.randint(2, 3)):
        word += rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", "n", "r", "s", "l", "t"])
    return word


def _listed(rng: random.Random, items: list[str]) -> str:
    return rng.choice([", ", ", ", " ", "; "]).join(items)


def _words(rng: random.Random, most: int) -> list[str]:
    """Three or more different words, sometimes ones that do not exist."""
    n = rng.randint(3, most)
    if rng.random() < 0.8:
        return rng.sample(WORDS, n)
    words = list({made_up_word(rng): None for _ in range(n)})
    return words if len(words) >= 3 else _words(rng, most)


def sort_numbers(rng: random.Random, _: Memory) -> Turn:
    top = rng.choice([20, 100, 100, 1000])
    numbers = rng.sample(range(top), rng.randint(3, 9))
    down = rng.random() < 0.35
    ordered = sorted(numbers, reverse=down)
    if down:
        user = rng.choice(
            [
                "Sort these numbers in descending order: {}",
                "Sort from largest to smallest: {}",
                "Put these numbers in order from biggest to smallest: {}",
            ]
        )
    else:
        user = rng.choice(
            [
                "Sort these numbers: {}",
                "Sort {}",
                "Sort in ascending order: {}",
                "Put these numbers in order from smallest to largest: {}",
                "Order these numbers: {}",
            ]
        )
    answer = ", ".join(map(str, ordered))
    return Turn(
        "sort numbers", user.format(_listed(rng, [str(n) for n in numbers])), answer, key=f"sort:{numbers}:{down}"
    )


def sort_words(rng: random.Random, _: Memory) -> Turn:
    words = rng.sample(NAMES, rng.randint(3, 7)) if rng.random() < 0.2 else _words(rng, 7)
    user = rng.choice(
        [
            "Sort these words alphabetically: {}",
            "Sort these words: {}",
            "Put in alphabetical order: {}",
            "Sort the list {} from A to Z",
            "Order these words alphabetically: {}",
        ]
    )
    return Turn("sort words", user.format(_listed(rng, words)), ", ".join(sorted(words)), key=f"sort:{words}")


def extreme(rng: random.Random, _: Memory) -> Turn:
    numbers = rng.sample(range(rng.choice([20, 100, 1000])), rng.randint(3, 8))
    if rng.random() < 0.6:
        adjective, best, word = rng.choice(["largest", "biggest", "highest"]), max(numbers), "largest"
    else:
        adjective, best, word = rng.choice(["smallest", "lowest"]), min(numbers), "smallest"
    user = rng.choice(["What is the {} number in {}?", "Which is the {} of {}?", "Find the {} number: {}"])
    return Turn(
        "largest or smallest",
        phrase(rng, user.format(adjective, ", ".join(map(str, numbers)))),
        f"The {word} number is {best}.",
        str(best),
        f"extreme:{numbers}:{word}",
    )


def pick(rng: random.Random, _: Memory) -> Turn:
    """The n-th, the first or the last of a list."""
    words = _words(rng, 7)
    if rng.random() < 0.2:
        place, word = "last", words[-1]
    else:
        n = rng.randrange(len(words))
        place, word = ORDINALS[n], words[n]
    user = rng.choice(
        [
            f"What is the {place} word in this list: {', '.join(words)}?",
            f"Which word comes {place} in {', '.join(words)}?",
            f"{', '.join(words)}. What is the {place} word?",
        ]
    )
    return Turn("pick from list", user, f"The {place} word is {word}.", word, f"pick:{words}:{place}")


def count_items(rng: random.Random, _: Memory) -> Turn:
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 10))]
    n = len(words)
    user = rng.choice(
        [
            f"How many words are in this list: {', '.join(words)}?",
            f"Count the words: {' '.join(words)}",
            f"How many words are there: {' '.join(words)}?",
        ]
    )
    return Turn(
        "count items",
        user,
        f"There {'is' if n == 1 else 'are'} {n} word{'' if n == 1 else 's'}.",
        str(n),
        f"items:{words}",
    )


def remove(rng: random.Random, _: Memory) -> Turn:
    words = _words(rng, 7)
    gone = rng.choice(words)
    user = rng.choice(
        [f"Remove {gone} from this list: {', '.join(words)}", f"Here is a list: {', '.join(words)}. Take out {gone}."]
    )
    return Turn("remove from list", user, ", ".join(w for w in words if w != gone), key=f"remove:{words}:{gone}")


def _anything(rng: random.Random) -> str:
    """A text to copy: words, sentences, digits, letters, signs, other scripts."""
    roll = rng.random()
    if roll < 0.35:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 9)))
    if roll < 0.45:
        return " ".join(made_up_word(rng) for _ in range(rng.randint(1, 5)))
    if roll < 0.55:
        return "".join(rng.choice(string.digits) for _ in range(rng.randint(2, 12)))
    if roll < 0.7:
        return "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(rng.randint(3, 12)))
    if roll < 0.8:
        return " ".join(rng.choice(EMOJI + FOREIGN + WORDS[:60]) for _ in range(rng.randint(1, 5)))
    if roll < 0.85:
        return "".join(
            chr(
                rng.choice(
                    [
                        rng.randint(0xA1, 0x24F),
                        rng.randint(0x391, 0x3C9),
                        rng.randint(0x410, 0x44F),
                        rng.randint(0x4E00, 0x9FA5),
                        rng.randint(0x1F600, 0x1F64F),
                    ]
                )
            )
            for _ in range(rng.randint(1, 6))
        )
    if roll < 0.9:
        return "".join(
            rng.choice(string.ascii_letters + string.digits + string.punctuation) for _ in range(rng.randint(3, 16))
        )
    place = rng.choice(
        [f"in the {rng.choice(NOUNS)}", f"with {rng.choice(NAMES)}", f"near {rng.choice(CITIES)}", "today"]
    )
    return rng.choice(
        [
            f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(['is', 'was'])} {rng.choice(ADJECTIVES)}.",
            f"I want to {rng.choice(VERBS)} {place}.",
            f"{rng.choice(NAMES)} likes {rng.choice(FOODS)} and {rng.choice(HOBBIES)}!",
            f"Did you {rng.choice(VERBS)} the {rng.choice(NOUNS)} {place}?",
            f"{rng.choice(NAMES)} saw a {rng.choice(ADJECTIVES)} {rng.choice(PETS)} {place}, but nobody else did.",
        ]
    )


def copy(rng: random.Random, _: Memory) -> Turn:
    text = _anything(rng)
    user = rng.choice(
        [
            "Repeat after me: {}",
            "Repeat: {}",
            "Say this: {}",
            "Copy this text: {}",
            "Say: {}",
            "Copy exactly: {}",
            "Please repeat: {}",
            "Echo: {}",
            'Say "{}"',
            'Repeat the text "{}"',
        ]
    )
    return Turn("copy", user.format(text), text, key=f"copy:{text}")


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS) if rng.random() < 0.5 else made_up_word(rng)


def spell(rng: random.Random, _: Memory) -> Turn:
    word = _word(rng)
    user = rng.choice(["Spell {}.", "Spell the word {}.", "How do you spell {}?", 'Spell "{}".', "Can you spell {}?"])
    return Turn("spell", user.format(word), "-".join(word), key=f"spell:{word}")


def letters(rng: random.Random, _: Memory) -> Turn:
    word = _word(rng)
    user = rng.choice(
        ["How many letters are in {}?", "How many letters does the word {} have?", 'Count the letters in "{}".']
    )
    return Turn(
        "count letters",
        user.format(word),
        f"{'-'.join(word)} has {len(word)} letters.",
        str(len(word)),
        f"letters:{word}",
    )


def reverse_word(rng: random.Random, _: Memory) -> Turn:
    word = _word(rng)
    user = rng.choice(
        ["Reverse the word {}.", "Spell {} backwards.", 'Reverse "{}".', "Write {} backwards.", "Reverse {}"]
    )
    return Turn(
        "reverse word",
        user.format(word),
        f"{'-'.join(word)} backwards is {'-'.join(word[::-1])}: {word[::-1]}",
        word[::-1],
        f"backwards:{word}",
    )


def reverse_digits(rng: random.Random, _: Memory) -> Turn:
    digits = "".join(rng.choice(string.digits) for _ in range(rng.randint(2, 10)))
    user = rng.choice(["Reverse the digits {}.", "Reverse {}", "Write {} backwards.", "Reverse the digits of {}."])
    return Turn("reverse digits", user.format(digits), digits[::-1], key=f"revd:{digits}")


def reverse_list(rng: random.Random, _: Memory) -> Turn:
    words = _words(rng, 8)
    user = rng.choice(
        ["Reverse the order of these words: {}", "Reverse this list: {}", "Write this list backwards: {}"]
    )
    return Turn("reverse list", user.format(_listed(rng, words)), ", ".join(reversed(words)), key=f"revl:{words}")


def change_case(rng: random.Random, _: Memory) -> Turn:
    text = " ".join(_word(rng) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.7:
        user = rng.choice(["Write {} in capital letters.", "Make this upper case: {}", "Convert to upper case: {}"])
        return Turn("upper and lower case", user.format(text), text.upper(), key=f"case:{text}")
    user = rng.choice(["Write {} in small letters.", "Make this lower case: {}", "Convert to lower case: {}"])
    return Turn("upper and lower case", user.format(text.upper()), text, key=f"case:{text}")
