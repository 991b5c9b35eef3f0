"""Arithmetic, comparing and counting."""

from __future__ import annotations

import random

from tables import NAMES, ROMAN
from turns import Memory, Turn, phrase, spell_number


def _of_digits(rng: random.Random, most: int) -> int:
    """A number whose count of digits is uniform in ``1..most``."""
    digits = rng.randint(1, most)
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def _calculation(rng: random.Random, left: int, sign: str, right: int, wordings: list[str]) -> str:
    bare = [f"{left} {sign} {right}", f"{left}{sign}{right}", f"{left} {sign} {right} =", f"{left}{sign}{right}=?"]
    roll = rng.random()
    if roll < 0.2:
        return rng.choice(bare)
    if roll < 0.6:
        return phrase(
            rng,
            rng.choice(["What is {}?", "How much is {}?", "Calculate {}.", "Compute {}."]).format(rng.choice(bare[:2])),
        )
    return phrase(rng, rng.choice(wordings).format(left, right))


def _sum(rng: random.Random, memory: Memory, task: str, most_digits: int) -> Turn:
    a, b = _of_digits(rng, most_digits), _of_digits(rng, most_digits)
    memory.number = a + b
    user = _calculation(
        rng,
        a,
        "+",
        b,
        [
            "What is the sum of {} and {}?",
            "Add {} and {}.",
            "What is {} plus {}?",
            "How much is {} plus {}?",
            "{} plus {}",
        ],
    )
    return Turn(task, user, f"{a} + {b} = {a + b}.", str(a + b), f"add:{a}:{b}")


def add(rng: random.Random, memory: Memory) -> Turn:
    return _sum(rng, memory, "addition, up to 4 digits", 4)


def add_long(rng: random.Random, memory: Memory) -> Turn:
    return _sum(rng, memory, "addition, up to 6 digits", 6)


def subtract(rng: random.Random, memory: Memory) -> Turn:
    a, b = _of_digits(rng, 3), _of_digits(rng, 3)
    if a < b and rng.random() < 0.7:
        a, b = b, a
    memory.number = a - b
    if rng.random() < 0.2:
        user = phrase(rng, rng.choice(["Subtract {} from {}.", "Take {} away from {}."]).format(b, a))
    else:
        user = _calculation(
            rng,
            a,
            "-",
            b,
            ["What is {} minus {}?", "How much is {} minus {}?", "{} minus {}", "What is the difference {} - {}?"],
        )
    return Turn("subtraction", user, f"{a} - {b} = {a - b}.", str(a - b), f"sub:{a}:{b}")


_TIMES = ["What is {} times {}?", "Multiply {} by {}.", "What is the product of {} and {}?", "{} times {}"]


def times_table(rng: random.Random, memory: Memory) -> Turn:
    """The table up to 12 x 12, by heart."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    memory.number = a * b
    return Turn("times table", _calculation(rng, a, rng.choice("xx*"), b, _TIMES), f"{a} x {b} = {a * b}.", str(a * b))


def multiply(rng: random.Random, memory: Memory) -> Turn:
    """Two digits by one digit, in steps."""
    a, b = rng.randint(13, 99), rng.randint(2, 9)
    tens, ones = a // 10 * 10, a % 10
    memory.number = a * b
    steps = f"{tens} x {b} + {ones} x {b} = {tens * b} + {ones * b} = " if ones else ""
    return Turn(
        "multiplication",
        _calculation(rng, a, rng.choice("xx*"), b, _TIMES),
        f"{a} x {b} = {steps}{a * b}.",
        key=f"mul:{a}:{b}",
    )


def divide(rng: random.Random, memory: Memory) -> Turn:
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    memory.number = a
    user = _calculation(rng, a * b, "/", b, ["What is {} divided by {}?", "Divide {} by {}."])
    return Turn("division", user, f"{a * b} / {b} = {a}.", str(a))


def follow_up(rng: random.Random, memory: Memory) -> Turn:
    """Goes on from the last result ("Now add 7."); a plain sum when there is none."""
    last = memory.number
    if last is None or not 0 <= last < 1000:
        return add(rng, memory)
    n = rng.randint(1, 99)
    if rng.random() < 0.5 or last < n:
        memory.number = last + n
        user = rng.choice(["Now add {}.", "And plus {}?", "Add {} to that.", "Add {} to the result.", "plus {}"])
        return Turn("follow-up", user.format(n), f"{last} + {n} = {last + n}.", str(last + n), f"follow:{last}:{n}")
    memory.number = last - n
    user = rng.choice(["Now subtract {}.", "And minus {}?", "Subtract {} from that.", "Take away {}.", "minus {}"])
    return Turn("follow-up", user.format(n), f"{last} - {n} = {last - n}.", str(last - n), f"follow:{last}:{n}")


def running_sum(rng: random.Random, memory: Memory) -> Turn:
    """Several numbers, added one after another."""
    items = [rng.randint(1, 60) for _ in range(rng.randint(3, 5))]
    total, steps = items[0], []
    for item in items[1:]:
        steps.append(f"{total} + {item} = {total + item}")
        total += item
    memory.number = total
    listed = ", ".join(map(str, items))
    user = rng.choice(["Add up {}.", "What is the sum of {}?", "Sum these numbers: {}", "What is the total of {}?"])
    expression = " + ".join(map(str, items))
    text = f"What is {expression}?" if rng.random() < 0.3 else user.format(listed)
    return Turn("running sum", phrase(rng, text), ", ".join(steps) + ".", str(total), f"sum:{listed}")


def word_problem(rng: random.Random, memory: Memory) -> Turn:
    name, food = (
        rng.choice(NAMES),
        rng.choice(["apples", "books", "coins", "marbles", "stamps", "pencils", "eggs", "flowers"]),
    )
    a, b = rng.randint(2, 60), rng.randint(1, 39)
    if a > b and rng.random() < 0.5:
        verb = rng.choice(["gives away {}", "loses {}", "sells {}"]).format(b)
        result, sign = a - b, "-"
    else:
        verb = rng.choice(["gets {} more", "finds {} more", "buys {} more"]).format(b)
        result, sign = a + b, "+"
    memory.number = result
    user = f"{name} has {a} {food} and {verb}. How many {food} does {name} have now?"
    return Turn(
        "word problem",
        phrase(rng, user),
        f"{a} {sign} {b} = {result}, so {name} has {result} {food}.",
        str(result),
        f"word:{name}:{a}:{b}",
    )


def compare(rng: random.Random, _: Memory) -> Turn:
    a = _of_digits(rng, 4)
    b = _of_digits(rng, 4) if rng.random() < 0.4 else max(0, a + rng.randint(-60, 60))
    if a == b:
        b += 1
    if rng.random() < 0.6:
        text, best, word = rng.choice(["larger", "bigger", "greater"]), max(a, b), "larger"
    else:
        text, best, word = rng.choice(["smaller", "less"]), min(a, b), "smaller"
    other = a + b - best
    user = rng.choice(
        [f"Which is {text}, {a} or {b}?", f"Which number is {text}: {a} or {b}?", f"What is {text}, {a} or {b}?"]
    )
    return Turn("comparison", phrase(rng, user), f"{best} is {word} than {other}.", str(best), f"cmp:{a}:{b}")


def parity(rng: random.Random, _: Memory) -> Turn:
    n = _of_digits(rng, 5)
    kind = "odd" if n % 2 else "even"
    user = rng.choice([f"Is {n} even or odd?", f"Is {n} odd or even?", f"Is the number {n} even or odd?"])
    return Turn("even or odd", phrase(rng, user), f"{n} is {kind}.", kind, f"parity:{n}")


def count(rng: random.Random, _: Memory) -> Turn:
    """Counting up, down and in steps."""
    start, length = (
        rng.choice([1, rng.randint(0, 120)]),
        rng.randint(3, 12) if rng.random() < 0.85 else rng.randint(13, 30),
    )
    roll = rng.random()
    if roll < 0.45:
        items = range(start, start + length)
        user = rng.choice(["Count from {} to {}.", "Count up from {} to {}.", "Write the numbers from {} to {}."])
        user = user.format(items[0], items[-1])
    elif roll < 0.7:
        items = range(start + length, start, -1)
        user = rng.choice(["Count down from {} to {}.", "Count backwards from {} to {}."])
        user = user.format(items[0], items[-1])
    else:
        step = rng.choice([2, 3, 5, 10])
        items = range(start, start + step * length, step)
        user = rng.choice(["Count from {} to {} by {}s.", "Count from {} to {} in steps of {}."])
        user = user.format(items[0], items[-1], step)
    listed = ", ".join(map(str, items))
    return Turn("counting", phrase(rng, user), listed, key=f"count:{listed}")


def neighbour(rng: random.Random, _: Memory) -> Turn:
    n = _of_digits(rng, 4)
    if rng.random() < 0.6 or n == 0:
        user = rng.choice(["What number comes after {}?", "What comes after {}?", "Which number follows {}?"])
        return Turn("next number", phrase(rng, user.format(n)), f"{n + 1} comes after {n}.", str(n + 1), f"next:{n}")
    user = rng.choice(["What number comes before {}?", "What comes before {}?"])
    return Turn("next number", phrase(rng, user.format(n)), f"{n - 1} comes before {n}.", str(n - 1), f"next:{n}")


def number_words(rng: random.Random, _: Memory) -> Turn:
    n = rng.randint(0, 99) if rng.random() < 0.3 else rng.randint(100, 999)
    words = spell_number(n)
    if rng.random() < 0.5:
        user = rng.choice(["Write {} in words.", "Spell the number {} in words.", "How do you say {} in words?"])
        return Turn("number words", phrase(rng, user.format(n)), f"{n} is {words}.", words, f"words:{n}")
    user = rng.choice(["Write {} as a number.", "Write {} in digits.", "What is {} in digits?"])
    return Turn("number words", phrase(rng, user.format(words)), f"{words} is {n}.", str(n), f"words:{n}")


def roman(rng: random.Random, _: Memory) -> Turn:
    n = rng.randint(1, 100)
    rest, numeral = n, ""
    for value, letters in ROMAN:
        numeral += letters * (rest // value)
        rest %= value
    forms = [f"Write {n} in Roman numerals.", f"What is {n} in Roman numerals?", f"What is {n} as a Roman numeral?"]
    form = rng.randrange(len(forms))
    return Turn(
        "roman numerals",
        phrase(rng, forms[form]),
        f"{n} is {numeral} in Roman numerals.",
        numeral,
        f"roman:{n}:{form}" if form else "",
    )
