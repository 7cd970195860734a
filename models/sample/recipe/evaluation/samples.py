"""A few conversations, to be read."""

from typing import NamedTuple

from corpus.markup import BEGIN, THINK, chat, thinking, tools_prompt, user
from evaluation.subject import Subject

TOKENS_MAX = 160

WEATHER_TOOL = {
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city"}},
        "required": ["city"],
    },
}
TOOL_SYSTEM = "\n\n" + tools_prompt([WEATHER_TOOL])


class Sample(NamedTuple):
    """What is said in turn, the user first and last."""

    said: list[str]
    system: str = ""
    thinks: bool = False


SAMPLES = (
    Sample(["Hello!"]),
    Sample(["What is the capital of France?"]),
    Sample(["Who are you?"]),
    Sample(["Tell me a story about a fox and a lamp."]),
    Sample(
        [
            "My name is Clara.",
            "Nice to meet you, Clara!",
            "What is 7 plus 5?",
            "7 plus 5 is 12.",
            "What is my name?",
        ]
    ),
    Sample(["Count from 3 to 9."]),
    Sample(["Repeat: red lamp river Anna old bread"]),
    Sample(["Write this as JSON: name Ben, age 12, city Rome"]),
    Sample(["Anna put the golden key under the bed. Ben took the red ball to the mill.\n\nWhere is the golden key?"]),
    Sample(["What is 9 minus 4?"], thinks=True),
    Sample(["What is the weather in Oslo?"], TOOL_SYSTEM),
    Sample(["Name three animals."], "You are a helpful assistant."),
    Sample(["Can you help me find my dog?"]),
    Sample(["Why is the moon round?"]),
)


def prompt(sample: Sample) -> str:
    """The conversation up to the answer that is asked for."""
    *before, last = sample.said
    turns = list(zip(before[::2], before[1::2]))
    return BEGIN + chat(turns, sample.system) + user(last) + (THINK if sample.thinks else thinking(None))


def measure(subject: Subject) -> None:
    """Prints the answers."""
    for sample in SAMPLES:
        ids = subject.encode(prompt(sample))
        answer = subject.generate(ids, TOKENS_MAX)[len(ids) :]
        tool = "[tool given] " if sample.system == TOOL_SYSTEM else ""
        thinks = "[thinking] " if sample.thinks else ""
        print(f"--- {tool}{thinks}{' / '.join(sample.said)}")
        print(subject.tokenizer.decode(answer, skip_special_tokens=False), flush=True)
