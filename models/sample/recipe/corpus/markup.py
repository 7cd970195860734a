"""How conversations are written: DeepSeek-V3.2's own markers, and its DSML for tool calls.

A server's chat template, tool parser and reasoning parser can so be shown with the model.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

BEGIN = "<｜begin▁of▁sentence｜>"
END = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"

# What the user says and what the assistant answers.
Turn = tuple[str, str]

# What DeepSeek-V3.2's template puts after the system message when there are tools; {schemas} is filled in.
TOOLS_PROMPT = """## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{dsml}function_calls>" block like the following as part of your reply to the user:
<{dsml}function_calls>
<{dsml}invoke name="$FUNCTION_NAME">
<{dsml}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{dsml}parameter>
...
</{dsml}invoke>
<{dsml}invoke name="$FUNCTION_NAME2">
...
</{dsml}invoke>
</{dsml}function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should \
use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types \
(numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:

<{dsml}function_calls>
...
</{dsml}function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
{schemas}
</functions>
""".replace("{dsml}", DSML)


def tools_prompt(schemas: Sequence[Mapping[str, Any]]) -> str:
    """The part of the system message that offers tools."""
    return TOOLS_PROMPT.replace("{schemas}", "\n".join(json.dumps(schema) for schema in schemas))


def user(text: str) -> str:
    """What the user says, and that it is the assistant's turn."""
    return USER + text + ASSISTANT


def thinking(thought: str | None) -> str:
    """The assistant's thought; without one, that it does not think."""
    return END_THINK if thought is None else THINK + thought + END_THINK


def chat(turns: Sequence[Turn], system: str = "", thought: str | None = None) -> str:
    """A whole conversation. `thought` is what the assistant thinks before its last answer."""
    text = system
    for i, (question, answer) in enumerate(turns):
        last = i == len(turns) - 1
        text += user(question) + thinking(thought if last else None) + answer + END
    return text


def tool_call(name: str, arguments: Mapping[str, Any]) -> str:
    """The assistant's call of a tool."""
    parameters = "\n".join(_parameter(key, value) for key, value in arguments.items())
    invoke = f'<{DSML}invoke name="{name}">\n{parameters}\n</{DSML}invoke>'
    return f"\n\n<{DSML}function_calls>\n{invoke}\n</{DSML}function_calls>"


def _parameter(key: str, value: Any) -> str:
    is_string = isinstance(value, str)
    shown = value if is_string else json.dumps(value)
    return f'<{DSML}parameter name="{key}" string="{"true" if is_string else "false"}">{shown}</{DSML}parameter>'


def tool_result(result: str) -> str:
    """What a tool answered."""
    return f"\n\n<function_results>\n<result>{result}</result>\n</function_results>\n\n"
