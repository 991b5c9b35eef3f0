"""Function calling: the model picks a tool from the system block, then words the tool's result."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from tables import CITIES, NAMES, NOUNS

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolKind:
    """One sort of tool: how it may be called, what users say, and what it gives back."""

    names: list[str]
    description: str
    arguments: list[tuple[list[str], str, str]]
    """Possible parameter names, JSON type, and what values they take."""
    requests: list[str]
    results: list[str]
    reply: str


KINDS = [
    ToolKind(
        ["get_weather", "weather", "current_weather"],
        "Get the weather in a city",
        [(["city", "location", "place"], "string", "city")],
        [
            "What is the weather in {0}?",
            "How is the weather in {0}?",
            "Is it raining in {0}?",
            "Tell me the weather in {0}.",
        ],
        ["sunny", "cloudy", "rainy", "snowy", "windy", "foggy", "21 degrees", "5 degrees", "30 degrees"],
        "The weather in {0} is {result}.",
    ),
    ToolKind(
        ["get_time", "current_time", "time_in"],
        "Get the current time in a city",
        [(["city", "location", "place"], "string", "city")],
        ["What time is it in {0}?", "What is the time in {0}?", "Tell me the time in {0}."],
        ["08:15", "12:30", "17:45", "23:05", "06:50"],
        "The time in {0} is {result}.",
    ),
    ToolKind(
        ["send_email", "send_message", "message"],
        "Send a message to a person",
        [(["to", "recipient", "name"], "string", "name"), (["text", "message", "body"], "string", "note")],
        ["Send a message to {0}: {1}", "Write to {0}: {1}", "Tell {0} this: {1}"],
        ["sent", "ok", "done"],
        "I have sent your message to {0}.",
    ),
    ToolKind(
        ["get_price", "price_of", "lookup_price"],
        "Look up the price of a thing",
        [(["item", "product", "thing"], "string", "noun")],
        ["How much does a {0} cost?", "What is the price of a {0}?", "Look up the price of a {0}."],
        ["12 euros", "5 dollars", "99 euros", "250 dollars", "3 pounds"],
        "The price of a {0} is {result}.",
    ),
    ToolKind(
        ["set_alarm", "set_timer", "timer"],
        "Set a timer",
        [(["minutes", "duration"], "integer", "number")],
        ["Set a timer for {0} minutes.", "Wake me in {0} minutes.", "Start a timer of {0} minutes."],
        ["ok", "done", "started"],
        "The timer is set to {0} minutes.",
    ),
    ToolKind(
        ["search", "web_search", "find"],
        "Search the web",
        [(["query", "q", "text"], "string", "phrase")],
        ["Search for {0}.", "Search the web for {0}.", "Find {0} on the web."],
        ["3 pages", "12 pages", "no pages", "1 page"],
        "I searched for {0} and found {result}.",
    ),
    ToolKind(
        ["calculator", "multiply", "calc"],
        "Multiply two numbers",
        [(["a", "x", "first"], "integer", "number"), (["b", "y", "second"], "integer", "number")],
        [
            "Use the calculator: {0} times {1}",
            "Multiply {0} by {1} with the tool.",
            "Use a tool to multiply {0} and {1}.",
        ],
        ["391", "1024", "76", "5040"],
        "The result is {result}.",
    ),
    ToolKind(
        ["play_music", "play", "start_song"],
        "Play a song",
        [(["title", "song", "name"], "string", "phrase")],
        ["Play {0}.", "Play the song {0}.", "I want to hear {0}."],
        ["playing", "ok"],
        "I am playing {0} for you.",
    ),
]


def _value(rng: random.Random, kind: str) -> str | int:
    if kind == "city":
        return rng.choice(CITIES)
    if kind == "name":
        return rng.choice(NAMES)
    if kind == "noun":
        return rng.choice(NOUNS)
    if kind == "number":
        return rng.randint(1, 120)
    if kind == "note":
        return rng.choice(
            [
                "I am late",
                "see you soon",
                "happy birthday",
                "call me",
                "the train is late",
                "dinner is ready",
                f"buy a {rng.choice(NOUNS)}",
                f"meet me in {rng.choice(CITIES)}",
            ]
        )
    return f"{rng.choice(NOUNS)} {rng.choice(NOUNS)}"


def _define(rng: random.Random, kind: ToolKind) -> tuple[Message, list[str]]:
    """The tool's OpenAI definition, and the names chosen for its parameters."""
    names = [rng.choice(options) for options, _, _ in kind.arguments]
    properties: dict[str, Any] = {}
    for name, (_, json_type, _) in zip(names, kind.arguments, strict=True):
        properties[name] = {"type": json_type}
        if rng.random() < 0.4:
            properties[name]["description"] = f"The {name}"
    parameters: Message = {"type": "object", "properties": properties}
    if rng.random() < 0.8:
        parameters["required"] = names
    function: Message = {"name": rng.choice(kind.names)}
    if rng.random() < 0.85:
        function["description"] = kind.description + rng.choice(["", "."])
    function["parameters"] = parameters
    return {"type": "function", "function": function}, names


def call_text(name: str, arguments: Message) -> str:
    """What the model writes to call a tool."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def tool_chat(rng: random.Random) -> tuple[list[Message], list[Message], str]:
    """Messages (call, result, final answer), the tools, and a key for the train/test split."""
    kinds = rng.sample(KINDS, rng.randint(1, 3))
    defined = [_define(rng, kind) for kind in kinds]
    tools = [tool for tool, _ in defined]
    i = rng.randrange(len(kinds))
    kind, (tool, names) = kinds[i], defined[i]
    values = [_value(rng, value_kind) for _, _, value_kind in kind.arguments]
    arguments = dict(zip(names, values, strict=True))
    result = rng.choice(kind.results)
    messages: list[Message] = [
        {"role": "user", "content": rng.choice(kind.requests).format(*values)},
        {"role": "assistant", "content": call_text(tool["function"]["name"], arguments)},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": kind.reply.format(*values, result=result)},
    ]
    return messages, tools, f"tool:{kind.names[0]}:{values}"
