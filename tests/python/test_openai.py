"""The official OpenAI client against a Casemate server: through `connect`, and directly over attested mTLS.

    python test_openai.py --connect http://127.0.0.1:11434/v1 --direct direct.json --model NAME

`direct.json`: {"host", "port", "server_name", "certificate", "key", "enclave_ca", "platform"}.
Prints one line for each check and "N passed, N failed"; exits 1 if anything failed or nothing was run.
"""

import argparse
import json
import sys
import traceback

import httpx
import openai

import attested

QUESTION = [{"role": "user", "content": "Who are you?"}]
CHECKS = []
FOUR_KEYS = {"message", "type", "param", "code"}


def check(function):
    CHECKS.append(function)
    return function


class Way:
    """One way to the server."""

    def __init__(self, name, base, http_client, model):
        self.name, self.base, self.model, self.http = name, base, model, http_client
        self.openai = openai.OpenAI(base_url=base, api_key="unused", http_client=http_client, max_retries=0)

    def chat(self, **options):
        options = {"model": self.model, "messages": QUESTION, "max_tokens": 16, "temperature": 0, **options}
        return self.openai.chat.completions.create(**options)

    def complete(self, **options):
        options = {"model": self.model, "prompt": "It is a truth", "max_tokens": 16, "temperature": 0, **options}
        return self.openai.completions.create(**options)


@check
def models_list(way):
    ids = [model.id for model in way.openai.models.list()]
    assert way.model in ids, ids


@check
def chat(way):
    answer = way.chat()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id and answer.model == way.model
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length"), choice.finish_reason
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@check
def chat_streaming_equals_chat(way):
    whole = way.chat().choices[0]
    text, reason, chunks = "", None, 0
    for chunk in way.chat(stream=True):
        chunks += 1
        assert chunk.object == "chat.completion.chunk"
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert chunks > 1 and text == whole.message.content and reason == whole.finish_reason, (text, whole)


@check
def chat_streaming_usage(way):
    chunks = list(way.chat(stream=True, stream_options={"include_usage": True}))
    last = chunks[-1]
    assert last.choices == [] and last.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@check
def completions(way):
    answer = way.complete()
    assert answer.object == "text_completion" and answer.choices[0].text
    assert answer.usage.completion_tokens <= 16


@check
def completions_streaming_equals_completions(way):
    whole = way.complete().choices[0].text
    text = "".join(chunk.choices[0].text for chunk in way.complete(stream=True) if chunk.choices)
    assert text == whole, (text, whole)


@check
def temperature_zero_is_deterministic(way):
    first = way.chat(temperature=0).choices[0].message.content
    assert first == way.chat(temperature=0).choices[0].message.content


@check
def the_same_seed_gives_the_same_answer(way):
    def answer(seed):
        return way.complete(seed=seed, temperature=1.0, max_tokens=24).choices[0].text
    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in range(6)}) > 1


@check
def max_tokens_ends_with_length(way):
    answer = way.complete(max_tokens=3)
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


@check
def stop_ends_before_the_stop_string(way):
    whole = way.complete(max_tokens=24).choices[0].text
    middle = len(whole) // 2
    stop = whole[middle:middle + 2]
    expected = whole[:whole.index(stop)]
    answer = way.complete(max_tokens=24, stop=[stop]).choices[0]
    assert answer.text == expected and answer.finish_reason == "stop", (answer.text, expected)


@check
def logprobs_are_those_of_the_answers_tokens(way):
    plain = way.chat(max_tokens=24).choices[0]
    assert plain.logprobs is None
    choice = way.chat(max_tokens=24, logprobs=True, top_logprobs=3).choices[0]
    assert choice.message.content == plain.message.content
    content = choice.logprobs.content
    assert "".join(bytes(token.bytes).decode("utf-8", "replace") for token in content) == choice.message.content
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert token.logprob == values[0], "temperature 0 takes the likeliest"
    streamed = []
    for chunk in way.chat(max_tokens=24, logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in content]
    told = way.complete(logprobs=2).choices[0]
    lists = told.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset)
    assert "".join(lists.tokens) == told.text and lists.text_offset[0] == 0


@check
def logit_bias_decides_what_is_drawn(way):
    def forced(token):
        return way.complete(logit_bias={str(token): 100}, max_tokens=4).choices[0].text
    one, other = forced(300), forced(301)
    assert one and one == forced(300) and one != other
    assert one[:len(one) // 4] * 4 == one, "the same token four times"
    first = way.complete(max_tokens=1).choices[0].text
    assert way.complete(max_tokens=1, logit_bias={}).choices[0].text == first


@check
def response_format_gives_json_of_the_schema(way):
    schema = {"type": "object", "additionalProperties": False, "required": ["count"], "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99}}}
    shape = {"type": "json_schema", "json_schema": {"name": "count", "strict": True, "schema": schema}}
    for temperature in (0, 1):
        choice = way.chat(response_format=shape, temperature=temperature, max_tokens=200).choices[0]
        assert choice.finish_reason == "stop", choice
        value = json.loads(choice.message.content)
        assert set(value) == {"count"} and 0 <= value["count"] <= 99, value
    text = "".join(chunk.choices[0].delta.content or ""
                   for chunk in way.chat(response_format=shape, max_tokens=200, stream=True))
    assert set(json.loads(text)) == {"count"}, text
    bad = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"not": {}}}}
    error = refused(lambda: way.chat(response_format=bad), openai.BadRequestError, "invalid_schema")
    assert error.param == "response_format" and "'not'" in error.message


def refused(call, kind, code=None):
    try:
        call()
    except openai.APIStatusError as error:
        assert isinstance(error, kind), f"{type(error).__name__} instead of {kind.__name__}: {error}"
        assert isinstance(error.body, dict) and set(error.body) == FOUR_KEYS, error.body
        assert error.body["message"] and error.body["type"]
        if code:
            assert error.code == code, error.code
        return error
    raise AssertionError("was not refused")


@check
def an_unknown_model_is_404(way):
    refused(lambda: way.chat(model="no-such-model"), openai.NotFoundError, "model_not_found")


@check
def a_wrong_temperature_is_400_with_its_parameter(way):
    error = refused(lambda: way.chat(temperature=99), openai.BadRequestError)
    assert error.param == "temperature", error.param


@check
def an_overlong_prompt_is_context_length_exceeded(way):
    long = [{"role": "user", "content": "word " * 20000}]
    refused(lambda: way.chat(messages=long), openai.BadRequestError, "context_length_exceeded")


@check
def malformed_json_has_all_four_keys(way):
    for body in (b"{", b"[]", b"", b'{"model": 1}', b"[" * 5000, b'{"model":"a","model":"b"}'):
        answer = way.http.post(f"{way.base}/chat/completions", content=body,
                               headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), (answer.status_code, body[:20])
        assert set(answer.json()["error"]) == FOUR_KEYS, answer.text


@check
def an_unknown_path_has_all_four_keys(way):
    answer = way.http.get(f"{way.base}/no-such-thing")
    assert answer.status_code == 404 and set(answer.json()["error"]) == FOUR_KEYS, answer.text


@check
def a_stream_that_is_left_early_harms_nobody(way):
    stream = way.chat(stream=True, max_tokens=64)
    next(iter(stream))
    stream.close()
    assert way.chat().choices[0].message.content


def ways(arguments):
    if arguments.connect:
        base = arguments.connect.rstrip("/")
        yield Way("connect", base, httpx.Client(timeout=120.0), arguments.model)
    if arguments.direct:
        with open(arguments.direct, encoding="utf-8") as file:
            direct = json.load(file)
        yield Way("direct", attested.base_url(direct), attested.client(direct), arguments.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connect", metavar="URL", help="base URL that `casemate connect` printed")
    parser.add_argument("--direct", metavar="FILE", help="parameters of the direct way, JSON")
    parser.add_argument("--model", required=True, metavar="NAME")
    arguments = parser.parse_args()
    passed = failed = 0
    for way in ways(arguments):
        for function in CHECKS:
            try:
                function(way)
                passed += 1
                print(f"PASS {way.name}.{function.__name__}", flush=True)
            except Exception as error:  # every failure is a line, none ends the run
                failed += 1
                print(f"FAIL {way.name}.{function.__name__} {type(error).__name__}: {error}", flush=True)
                traceback.print_exc(file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
