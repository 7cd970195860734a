"""Drives a running cluster with the real `openai` package. Usage: openai_client.py BASE_URL MODEL GOLDEN.json

Compares greedy tokens with the golden data (the server runs in f32) and checks every documented option. Prints one line
a check and exits 1 at the first that fails."""

import json
import sys

import openai


def check(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name, detail if not condition else "", flush=True)
    if not condition:
        sys.exit(1)


def completions(client, model, golden):
    for prompt in golden["prompts"]:
        extra = {"ignore_eos": True, "return_token_ids": True}
        answer = client.completions.create(
            model=model, prompt=prompt["input_ids"], max_tokens=32, temperature=0, extra_body=extra
        )
        choice = answer.choices[0]
        check(f"golden greedy {prompt['name']}", choice.model_extra["token_ids"] == prompt["greedy_ids"], choice)
        check("usage", answer.usage.prompt_tokens == prompt["tokens"] and answer.usage.completion_tokens == 32, answer.usage)
        check("finish reason", choice.finish_reason == "length", choice.finish_reason)
        stream = client.completions.create(
            model=model, prompt=prompt["input_ids"], max_tokens=32, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body=extra,
        )
        ids, text, usage = [], "", None
        for chunk in stream:
            usage = chunk.usage or usage
            for part in chunk.choices:
                text += part.text
                ids += part.model_extra.get("token_ids") or []
        check(f"streamed equals whole {prompt['name']}", ids == prompt["greedy_ids"] and text == choice.text, (ids, text))
        check("usage in the stream", usage is not None and usage.completion_tokens == 32, usage)
    longest = golden["prompts"][-1]
    answer = client.completions.create(model=model, prompt=longest["input_ids"], max_tokens=1, temperature=0)
    cached = answer.usage.prompt_tokens_details.cached_tokens
    check("a repeated prompt is cached", cached >= 64 and cached % 64 == 0, answer.usage)


def options(client, model):
    ask = dict(model=model, prompt="that i", max_tokens=12, extra_body={"ignore_eos": True})
    one = client.completions.create(**ask, temperature=1, seed=7)
    two = client.completions.create(**ask, temperature=1, seed=7)
    other = client.completions.create(**ask, temperature=1, seed=8)
    check("a seed repeats", one.choices[0].text == two.choices[0].text)
    check("another seed differs", one.choices[0].text != other.choices[0].text)
    many = client.completions.create(**ask, temperature=1, seed=7, n=3)
    texts = [c.text for c in sorted(many.choices, key=lambda c: c.index)]
    check("n gives that many, the first as alone", len(texts) == 3 and texts[0] == one.choices[0].text, texts)
    check("choices differ", len(set(texts)) > 1, texts)
    whole = client.completions.create(**ask, temperature=0).choices[0].text
    stop = whole[4:7]
    cut = client.completions.create(**ask, temperature=0, stop=[stop]).choices[0]
    check("a stop string cuts", cut.text == whole[: whole.index(stop)] and cut.finish_reason == "stop", (whole, stop, cut))
    scored = client.completions.create(**ask, temperature=0, logprobs=2).choices[0].logprobs
    check("logprobs", len(scored.token_logprobs) == 12 and all(v <= 0 for v in scored.token_logprobs), scored)
    check("the greedy token leads", all(max(t.values()) == v for t, v in zip(scored.top_logprobs, scored.token_logprobs)))
    narrow = client.completions.create(**ask | {"extra_body": {"ignore_eos": True, "top_k": 1}}, temperature=1, seed=3)
    check("top_k 1 is greedy", narrow.choices[0].text == whole, narrow)


def chat(client, model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "that is a test"}]
    ask = dict(model=model, messages=messages, max_tokens=8, temperature=0, extra_body={"ignore_eos": True})
    answer = client.chat.completions.create(**ask, logprobs=True, top_logprobs=1)
    choice = answer.choices[0]
    check("chat answers", choice.message.role == "assistant" and answer.usage.completion_tokens == 8, answer)
    check("chat logprobs", len(choice.logprobs.content) == 8, choice.logprobs)
    text = ""
    for chunk in client.chat.completions.create(**ask, stream=True):
        for part in chunk.choices:
            text += part.delta.content or ""
    check("chat streams the same", text == choice.message.content, (text, choice.message.content))


def refused(name, kind, call, *words):
    try:
        call()
    except kind as error:
        check(name, all(word in str(error) for word in words), str(error))
    else:
        check(name, False, "it was accepted")


def bad_input(client, model):
    ask = dict(model=model, prompt="that i", max_tokens=4)
    bad = openai.BadRequestError
    create = client.completions.create
    refused("negative temperature", bad, lambda: create(**ask, temperature=-1), "temperature")
    refused("absurd top_p", bad, lambda: create(**ask, top_p=7), "top_p")
    refused("empty prompt", bad, lambda: create(**ask | {"prompt": []}), "prompt")
    refused("token out of range", bad, lambda: create(**ask | {"prompt": [1, 99999]}), "99999")
    refused("wrong type", bad, lambda: create(**ask | {"max_tokens": "many"}), "max_tokens")
    refused("too long", bad, lambda: create(**ask | {"prompt": [5] * 20000}), "20000")
    refused("unknown model", openai.NotFoundError, lambda: create(**ask | {"model": "nothing"}), "nothing", model)
    refused("no messages", bad, lambda: client.chat.completions.create(model=model, messages=[]), "messages")
    check("still serving", bool(create(**ask).choices))


def main():
    base_url, model, golden = sys.argv[1:4]
    client = openai.OpenAI(base_url=base_url + "/v1", api_key="none", timeout=60, max_retries=0)
    check("models", model in [m.id for m in client.models.list().data])
    check("one model", client.models.retrieve(model).id == model)
    with open(golden) as file:
        completions(client, model, json.load(file))
    options(client, model)
    chat(client, model)
    bad_input(client, model)
    print("all passed")


main()
