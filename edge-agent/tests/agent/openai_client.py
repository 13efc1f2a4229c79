"""Drives a device's local API with the `openai` package from PyPI, and prints one line for each thing that held.

Usage: openai_client.py BASE_URL TOKEN MODEL CONTEXT_TOKENS PROMPT ANSWER
"""

import sys

import openai
from openai import OpenAI

base_url, token, model, context, prompt, answer = sys.argv[1:]
context = int(context)
client = OpenAI(base_url=base_url, api_key=token, max_retries=0)
messages = [{"role": "user", "content": prompt.strip()}]


def own(response):
    """What only Fieldfare says of an answer, checked."""
    fieldfare = response.model_extra["fieldfare"]
    assert 0 < fieldfare["confidence"] <= 1, fieldfare
    assert fieldfare["tokens_per_second"] > 0, fieldfare
    assert fieldfare["release"] == f"{model}.r1" and len(fieldfare["weights_sha256"]) == 64, fieldfare
    return fieldfare


def check_usage(usage, most):
    assert 0 < usage.completion_tokens <= most and usage.prompt_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def models():
    listed = client.models.list().data
    assert [entry.id for entry in listed] == [model], listed
    assert listed[0].owned_by == "fieldfare" and listed[0].object == "model", listed
    assert client.models.retrieve(model) == client.models.retrieve(f"{model}.r1") == listed[0]


def completion():
    response = client.completions.create(model=model, prompt=prompt, max_tokens=48, temperature=0)
    choice = response.choices[0]
    assert choice.text.strip() == answer and choice.finish_reason == "stop", choice
    check_usage(response.usage, 48)
    own(response)
    cut = client.completions.create(model=f"{model}.r1", prompt=prompt, max_tokens=3, temperature=0)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3, cut
    assert answer.startswith(cut.choices[0].text.strip()), cut
    stopped = client.completions.create(model=model, prompt=prompt, max_tokens=48, temperature=0, stop=[","])
    assert stopped.choices[0].text.strip() == answer.split(",")[0], stopped


def completion_stream():
    stream = client.completions.create(
        model=model, prompt=prompt, max_tokens=48, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    *parts, last = chunks
    assert last.choices == [], last
    check_usage(last.usage, 48)
    assert all(part.usage is None for part in parts), parts
    assert "".join(part.choices[0].text for part in parts).strip() == answer, parts
    assert [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason] == ["stop"], parts
    own(parts[-1])
    plain = list(client.completions.create(model=model, prompt=prompt, max_tokens=4, temperature=0, stream=True))
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in plain), plain


def done():
    create = client.completions.with_streaming_response.create
    with create(model=model, prompt=prompt, max_tokens=4, temperature=0, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream"), raw.headers
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and lines.count("data: [DONE]") == 1, lines


def chat():
    response = client.chat.completions.create(model=model, messages=messages, max_tokens=48, temperature=0)
    choice = response.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip() == answer, choice
    check_usage(response.usage, 48)
    own(response)
    drawn = [
        client.chat.completions.create(model=model, messages=messages, max_completion_tokens=16, temperature=2, seed=seed)
        .choices[0]
        .message.content
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2], drawn


def chat_stream():
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=48, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *parts, last = list(stream)
    check_usage(last.usage, 48)
    assert parts[0].choices[0].delta.role == "assistant", parts[0]
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text.strip() == answer, text
    assert parts[-1].choices[0].finish_reason == "stop", parts[-1]
    own(parts[-1])


def refused(error, call, **expected):
    try:
        call()
    except error as refusal:
        found = {name: getattr(refusal, name) for name in expected}
        assert found == expected, (found, expected, refusal.body)
        assert refusal.type == "invalid_request_error" and refusal.body["message"], refusal.body
    else:
        raise AssertionError(f"not refused, expected {error.__name__} with {expected}")


def refusals():
    def ask(**options):
        return lambda: client.completions.create(**{"model": model, "prompt": prompt, "max_tokens": 4, **options})

    def say(**options):
        return lambda: client.chat.completions.create(**{"model": model, "messages": messages, "max_tokens": 4, **options})

    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-4o"), code="model_not_found", param="model")
    refused(openai.NotFoundError, ask(model="gpt-4o"), code="model_not_found", param="model")
    refused(openai.NotFoundError, say(model="gpt-4o"), code="model_not_found", param="model")
    refused(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="a"), code=None, param=None)
    refused(openai.BadRequestError, ask(temperature=-1), code=None, param="temperature")
    refused(openai.BadRequestError, ask(max_tokens=0), code=None, param="max_tokens")
    refused(openai.BadRequestError, ask(top_p=2), code=None, param="top_p")
    refused(openai.BadRequestError, ask(n=2), code=None, param="n")
    refused(openai.BadRequestError, ask(echo=True), code=None, param="echo")
    refused(openai.BadRequestError, say(messages=[]), code=None, param="messages")
    refused(openai.BadRequestError, say(messages=[{"role": "robot", "content": "a"}]), code=None, param="messages[0].role")
    tool = {"type": "function", "function": {"name": "pump", "parameters": {}}}
    refused(openai.BadRequestError, say(tools=[tool]), code=None, param="tools")
    long = "dry " * context
    refused(openai.BadRequestError, ask(prompt=long), code="context_length_exceeded", param="prompt")
    said = [{"role": "user", "content": long}]
    refused(openai.BadRequestError, say(messages=said), code="context_length_exceeded", param="messages")


def refused_stream():
    """What is known to fail before the first token fails with a status, not in the midst of a stream."""
    long = "dry " * context
    ask = client.completions.create
    refused(
        openai.BadRequestError,
        lambda: ask(model=model, prompt=long, stream=True),
        code="context_length_exceeded",
        param="prompt",
    )


def strangers():
    for stranger in ("wrong", token[:-1]):
        guess = OpenAI(base_url=base_url, api_key=stranger, max_retries=0)
        refused(openai.AuthenticationError, guess.models.list, code="invalid_api_key", param=None)


for check in (models, completion, completion_stream, done, chat, chat_stream, refusals, refused_stream, strangers):
    check()
    print(check.__name__)
