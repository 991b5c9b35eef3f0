"""What the model cannot answer: questions beyond the tables, statements, and noise."""

from __future__ import annotations

import random
import string

from list_tasks import WORDS, made_up_word
from tables import ADJECTIVES, ANIMALS, CITIES, COUNTRIES, DAYS, FOODS, HOBBIES, JOBS, NAMES, NOUNS, PETS, VERBS
from turns import Memory, Turn, article, phrase

UNKNOWN = "I don't know. I am only a very small model."
LISTENING = "I see. Tell me more."
NOISE = "I am sorry, I do not understand that."

_PEOPLE = (
    "president king queen mayor inventor owner author leader boss captain chancellor pope emperor director winner "
    "founder minister"
).split()
_DONE = (
    "invented discovered built wrote founded won designed painted sold broke stole made found lost killed saved".split()
)
_WHY = [
    "work",
    "exist",
    "grow",
    "move",
    "break",
    "cost so much",
    "taste so good",
    "look like that",
    "fall down",
    "sing",
    "fly",
    "sleep",
    "live so long",
    "smell",
    "shine",
    "float",
]
_TOPICS = (
    "politics|history|medicine|law|philosophy|economics|physics|the stock market|football results|quantum computers|poetry|"
    "quantum mechanics|cooking|the news|fashion|religion|movies|video games|astrology|the future|machine learning|space|art|"
    "black holes|relativity|evolution|climate change|democracy|music theory|blockchain|neural networks|the internet|"
    "photosynthesis|gravity|the universe|money|love|war|peace|life on Mars|dinosaurs|the Roman Empire|the Second World War|"
    "GPUs|Linux|Python|JavaScript|databases|cars|health|vaccines|the brain|electricity|time travel"
).split("|")
_WORKS = (
    "poem|haiku|song|letter|email|essay|report|speech|program|function|Python program|Python script|web page|recipe|"
    "joke book|summary|review|blog post|limerick|rap|novel|business plan|tweet|SQL query|shell script|unit test"
).split("|")
_FAMOUS = (
    "Napoleon|Einstein|Albert Einstein|Isaac Newton|Mozart|Beethoven|Picasso|Cleopatra|Julius Caesar|Plato|Aristotle|"
    "Marie Curie|Charles Darwin|Galileo|Columbus|Gandhi|Abraham Lincoln|Alan Turing|Ada Lovelace|Harry Potter|Batman|"
    "Superman|Sherlock Holmes|Homer|Dante|Goethe|Bach|Elvis|Obama|Nelson Mandela|Tesla|Robin Hood"
).split("|")
_LANGUAGES = "German French Spanish Italian Latin Chinese Japanese Russian Greek Polish Dutch Swedish Klingon".split()
_PLACES = [
    "Atlantis",
    "Narnia",
    "Mordor",
    "Texas",
    "Bavaria",
    "Hogwarts",
    "Scotland",
    "California",
    "the moon",
    "Wonderland",
]


def unknown(rng: random.Random, _: Memory) -> Turn:
    """Questions and orders whose only honest answer is that the model does not know."""
    made_up = made_up_word(rng).capitalize()
    place = rng.choice([made_up, rng.choice(CITIES), rng.choice(list(COUNTRIES)), rng.choice(_PLACES)])
    nowhere = rng.choice([made_up, made_up, rng.choice(_PLACES)])
    person = rng.choice([made_up, rng.choice(_FAMOUS), rng.choice(_FAMOUS), f"{rng.choice(NAMES)} {made_up}"])
    noun = rng.choice([rng.choice(NOUNS), rng.choice(NOUNS), rng.choice(list(ANIMALS))])
    other, topic, work = rng.choice(NOUNS), rng.choice(_TOPICS), rng.choice(_WORKS)
    plural = rng.choice([rng.choice(NOUNS) + "s", rng.choice(FOODS)])
    year = rng.randint(1200, 2100)
    about = rng.choice(
        [
            f"about {article(noun)}",
            f"about the {noun}",
            f"about {place}",
            f"about {topic}",
            f"for {person}",
            f"to {rng.choice(VERBS)} the {noun}",
            f"about {plural}",
            "",
            "",
        ]
    )
    question = rng.choice(
        [
            f"What is the capital of {nowhere}?",
            f"What is the chemical symbol for {made_up.lower()}?",
            f"On which continent is {nowhere}?",
            f"What is {article(made_up.lower())}?",
            f"What is {article(noun)}?",
            f"What is {topic}?",
            f"Who is {person}?",
            f"Who was {person}?",
            f"When was {person} born?",
            f"Where does {person} live?",
            f"Do you know {person}?",
            f"Who {rng.choice(_DONE)} the {noun}?",
            f"Who {rng.choice(_DONE)} {made_up}?",
            f"Who is the {rng.choice(_PEOPLE)} of {place}?",
            f"Who was the {rng.choice(_PEOPLE)} of {place} in {year}?",
            f"What is the name of the {rng.choice(_PEOPLE)} of {place}?",
            f"What is the population of {place}?",
            f"How many people live in {place}?",
            f"How big is {place}?",
            f"What is {place} known for?",
            f"How far is it from {place} to {rng.choice(CITIES)}?",
            f"How do I get to {place}?",
            f"How is the weather in {place}?",
            f"What is the best {rng.choice(['hotel', 'food', 'restaurant', 'school', 'beach'])} in {place}?",
            f"Tell me about {place}.",
            f"Why do {plural} {rng.choice(_WHY)}?",
            f"How do {plural} {rng.choice(_WHY)}?",
            f"Can {plural} {rng.choice(_WHY)}?",
            f"Why is the {noun} {rng.choice(ADJECTIVES)}?",
            f"Why is {topic} important?",
            f"What do {plural} eat?",
            f"Why are {plural} so popular?",
            f"What happened in {year}?",
            f"Who won the {noun} race in {year}?",
            f"Who was born in {year}?",
            f"What will happen in {year}?",
            f"How much does {article(noun)} cost?",
            f"How old is the {noun}?",
            f"How heavy is {article(noun)}?",
            f"How long is the {noun}?",
            f"Where can I buy {plural}?",
            f"When was the {noun} invented?",
            f"Where is my {noun}?",
            f"Should I buy {article(noun)}?",
            f"What do you think about {topic}?",
            f"What is your opinion on {plural}?",
            f"Explain {topic}.",
            f"Explain {topic} in simple terms.",
            f"Explain how {article(noun)} works.",
            f"How does {topic} work?",
            f"Tell me something about {topic}.",
            f"Teach me {topic}.",
            f"What is the difference between {article(noun)} and {article(other)}?",
            f"How do I {rng.choice(VERBS)} {article(noun)}?",
            f"How do I become {article(rng.choice(JOBS))}?",
            f"How can I learn {topic}?",
            f"Which {noun} is the best?",
            f"How tall is {person}?",
            f"Write a {work} {about}.".replace(" .", "."),
            f"Please write a {work} {about}.".replace(" .", "."),
            f"Give me a {work} {about}.".replace(" .", "."),
            f"Can you write a {work} {about}?".replace(" ?", "?"),
            f"Translate {noun} into {rng.choice(_LANGUAGES)}.",
            f"Translate this to {rng.choice(_LANGUAGES)}: {other} {noun}",
            f"How do you say {noun} in {rng.choice(_LANGUAGES)}?",
            f"What is {noun} made of?",
            f"Describe {article(noun)}.",
            f"Give me a recipe with {plural}.",
            f"How do I cook {plural}?",
            f"Draw {article(noun)}.",
            f"Define {topic}.",
            f"Summarize the history of {place}.",
            f"What will the weather be on {rng.choice(DAYS)}?",
            f"Do you like {plural}?",
            f"Is it true that {plural} like {other}s?",
            f"Is {person} {rng.choice(ADJECTIVES)}?",
            f"Are {plural} {rng.choice(ADJECTIVES)}?",
            f"What should I do with my {noun}?",
            f"Recommend a good {rng.choice(['book', 'movie', 'song', 'game'])} {about}.".replace(" .", "."),
            f"Open the {noun}.",
            f"Turn on the {noun}.",
            f"Buy me {article(noun)}.",
            f"Call {rng.choice(NAMES)}.",
            f"Book a trip to {place}.",
        ]
    )
    return Turn("does not know", phrase(rng, question), UNKNOWN, UNKNOWN, f"unknown:{question}")


def statement(rng: random.Random, _: Memory) -> Turn:
    """The user just tells something."""
    noun, adjective, verb = rng.choice(NOUNS), rng.choice(ADJECTIVES), rng.choice(VERBS)
    relative = rng.choice("mother father brother sister friend neighbour teacher boss uncle aunt dog cat".split())
    when = rng.choice(["yesterday", "today", "last week", "this morning", "every day", "on " + rng.choice(DAYS)])
    text = rng.choice(
        [
            f"My {relative} is {adjective}.",
            f"The {noun} is {adjective}.",
            f"I saw a {adjective} {noun} {when}.",
            f"I want to {verb} {when}.",
            f"I bought {article(noun)} {when}.",
            f"My {relative} likes {rng.choice(FOODS)}.",
            f"We have a {adjective} {noun} at home.",
            f"There is {article(noun)} in my {rng.choice(NOUNS)}.",
            f"I think that {noun}s are {adjective}.",
            f"It is {adjective} {when}.",
            f"I was in {rng.choice(CITIES)} {when}.",
            f"My {relative} went to {rng.choice(CITIES)}.",
            f"I have to {verb} {when}.",
            f"I lost my {noun} {when}.",
            f"{rng.choice(NAMES)} is my {relative}.",
            f"{rng.choice(NAMES)} has a {adjective} {noun}.",
            f"I am going to {rng.choice(CITIES)}.",
            f"My {relative} works as {article(rng.choice(JOBS))}.",
            f"I can {verb} very well.",
            f"I know a {rng.choice(JOBS)} who likes {rng.choice(HOBBIES)}.",
            f"Our {rng.choice(PETS)} is {adjective}.",
        ]
    )
    text = text if rng.random() < 0.7 else text.rstrip(".") if rng.random() < 0.5 else text.lower()
    return Turn("listens", text, LISTENING, LISTENING, f"statement:{text}")


def noise(rng: random.Random, _: Memory) -> Turn:
    """Typing that means nothing."""
    roll = rng.random()
    if roll < 0.3:
        text = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(4, 12)))
    elif roll < 0.5:
        text = " ".join(made_up_word(rng) for _ in range(rng.randint(1, 6)))
    elif roll < 0.7:
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 8)))
    elif roll < 0.85:
        text = "".join(rng.choice(string.punctuation) for _ in range(rng.randint(1, 6)))
    else:
        text = "".join(
            rng.choice(string.ascii_letters + string.digits + string.punctuation) for _ in range(rng.randint(3, 40))
        )
    return Turn("noise", text, NOISE, NOISE, f"noise:{text}")
