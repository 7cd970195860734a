"""Tool calls: tools are offered, one is called, its result comes, and the assistant answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from corpus.answers import fact
from corpus.knowledge import SYSTEM_PROMPTS
from corpus.markup import END, thinking, tool_call, tool_result, tools_prompt, user
from corpus.wording import digits, pick
from corpus.words import CITIES, NAMES, PLACES, THINGS


@dataclass(frozen=True)
class Tool:
    """A tool as it is offered, a question that needs it, and how it is used."""

    schema: dict[str, Any]
    question: str
    arguments: Mapping[str, Any]
    result: str
    answer: str


# A parameter's name, JSON type and description.
Parameter = tuple[str, str, str]


def tool_use(rng: Random) -> str:
    """A conversation in which one of up to three tools is called, sometimes after another question."""
    all_tools = _tools(rng)
    offered = rng.sample(all_tools, rng.choice([1, 1, 2, 3]))
    used = offered[0]
    rng.shuffle(offered)
    prompt = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.5 else ""
    text = prompt + "\n\n" + tools_prompt([tool.schema for tool in offered])
    # Clients write the empty lines of a prompt in different ways.
    if rng.random() < 0.1:
        text = text.replace("\n\n", "\n")
    if rng.random() < 0.12:
        question, answer = fact(rng)
        text += user(question) + thinking(None) + answer + END
    thinks = rng.random() < 0.25
    name = used.schema["name"]
    before_call = f"I can use {name} for this." if thinks else None
    text += user(used.question) + thinking(before_call) + tool_call(name, used.arguments) + END
    before_answer = f"The result is {used.result}." if thinks else None
    return text + tool_result(used.result) + thinking(before_answer) + used.answer + END


def _schema(rng: Random, name: str, description: str, parameters: list[Parameter]) -> dict[str, Any]:
    properties = {}
    for key, json_type, meaning in parameters:
        described = rng.random() < 0.5
        properties[key] = {"type": json_type, "description": meaning} if described else {"type": json_type}
    required = [key for key, _, _ in parameters]
    return {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


def _tools(rng: Random) -> list[Tool]:
    city, name, thing = rng.choice(CITIES), rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(10, 999), rng.randint(10, 999)
    degrees = rng.randint(-9, 38)
    sky = pick(rng, "sunny", "cloudy", "rainy", "windy", "foggy")
    hour, minute = rng.randint(0, 23), f"{rng.randint(0, 59):02d}"
    city_key = pick(rng, "city", "location", "place")
    number_keys = pick(rng, ("a", "b"), ("x", "y"))
    place = rng.choice(PLACES)
    return [
        _weather(rng, city_key, city, degrees, sky),
        _time(rng, city_key, city, f"{hour}:{minute}"),
        _add(rng, number_keys, a, b),
        _multiply(rng, number_keys, a, b),
        _find(rng, thing, place),
        _phone(rng, name),
    ]


def _weather(rng: Random, key: str, city: str, degrees: int, sky: str) -> Tool:
    name = pick(rng, "get_weather", "weather", "get_current_weather")
    description = pick(rng, "Get the weather", "Get the current weather in a city")
    schema = _schema(rng, name, description, [(key, "string", "The city")])
    question = pick(
        rng,
        f"What is the weather in {city}?",
        f"How is the weather in {city}?",
        f"What is the weather like in {city} today?",
        f"Tell me the weather in {city}.",
    )
    result = json.dumps({"temperature": degrees, "sky": sky})
    answer = f"It is {sky} in {city}, and the temperature is {degrees} degrees."
    return Tool(schema, question, {key: city}, result, answer)


def _time(rng: Random, key: str, city: str, time: str) -> Tool:
    name = pick(rng, "get_time", "current_time")
    schema = _schema(rng, name, "Get the current time in a city", [(key, "string", "The city")])
    question = pick(rng, f"What time is it in {city}?", f"What is the time in {city}?")
    return Tool(schema, question, {key: city}, time, f"It is {time} in {city}.")


def _numbers(keys: tuple[str, str]) -> list[Parameter]:
    return [(keys[0], "integer", "First number"), (keys[1], "integer", "Second number")]


def _add(rng: Random, keys: tuple[str, str], a: int, b: int) -> Tool:
    name = pick(rng, "add", "add_numbers")
    schema = _schema(rng, name, "Add two numbers", _numbers(keys))
    question = pick(rng, f"What is {a} plus {b}?", f"Add {a} and {b}.", f"What is {a} + {b}?")
    return Tool(schema, question, {keys[0]: a, keys[1]: b}, str(a + b), f"{a} plus {b} is {a + b}.")


def _multiply(rng: Random, keys: tuple[str, str], a: int, b: int) -> Tool:
    name = pick(rng, "multiply", "mul")
    schema = _schema(rng, name, "Multiply two numbers", _numbers(keys))
    question = pick(rng, f"What is {a} times {b}?", f"Multiply {a} by {b}.")
    return Tool(schema, question, {keys[0]: a, keys[1]: b}, str(a * b), f"{a} times {b} is {a * b}.")


def _find(rng: Random, thing: str, place: str) -> Tool:
    name = pick(rng, "find_thing", "search", "lookup")
    description = pick(rng, "Find where a thing is", "Search for something")
    key = pick(rng, "query", "name")
    schema = _schema(rng, name, description, [(key, "string", "What to look for")])
    question = pick(rng, f"Where is the {thing}?", f"Find the {thing}.", f"Look for the {thing}.")
    return Tool(schema, question, {key: thing}, json.dumps({"place": place}), f"The {thing} is in the {place}.")


def _phone(rng: Random, person: str) -> Tool:
    name = pick(rng, "get_phone", "find_number")
    schema = _schema(rng, name, "Find the phone number of a person", [("name", "string", "The person")])
    question = pick(rng, f"What is the phone number of {person}?", f"I need the number of {person}.")
    number = digits(rng)
    return Tool(schema, question, {"name": person}, number, f"The number of {person} is {number}.")
