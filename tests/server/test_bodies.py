"""Bodies that cost more to look at than to send."""

from __future__ import annotations

import time
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import httpx
import orjson
import pytest
from pydantic import ValidationError

from zif.sampling.kinds import Biases, Texts, TokenIds
from zif.sampling.params import PARAMETERS
from zif.server.body import MOST_CONTAINERS, MOST_VALUES, check_shape
from zif.server.errors import ApiError
from zif.server.schemas.chat import ChatRequest
from zif.server.schemas.common import MAX_PROMPTS, RequestModel
from zif.server.schemas.completions import CompletionRequest
from zif.server.schemas.generate import GenerateRequest, NativeSampling
from zif.server.schemas.tokens import AbortRequest, DetokenizeRequest, TokenizeRequest

MODELS: list[type[RequestModel]] = [
    *(ChatRequest, CompletionRequest, GenerateRequest, NativeSampling),
    *(TokenizeRequest, DetokenizeRequest, AbortRequest),
]


def kinds(annotation: Any) -> Iterator[Any]:
    """Yield the lists and dicts that a field takes, whatever they are wrapped in."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from kinds(part)
    elif origin in (list, dict):
        yield origin
        yield from kinds(get_args(annotation)[-1])


DECLARED = {Texts: "list", TokenIds: "list", Biases: "dict"}
FIELDS = sorted(
    {
        (model.__name__, parameter.names[model.api], DECLARED[type(parameter.kind)])
        for model in (ChatRequest, CompletionRequest, NativeSampling)
        for parameter in PARAMETERS.values()
        if model.api in parameter.names and type(parameter.kind) in DECLARED
    }
    | {
        (model.__name__, name, kind.__name__)
        for model in MODELS
        for name, info in model.model_fields.items()
        for kind in kinds(info.annotation)
    }
)


@pytest.mark.parametrize(("model", "name", "kind"), FIELDS)
def test_a_field_reports_its_first_error_alone(model: str, name: str, kind: str) -> None:
    wrong: Any
    for wrong in ([None], [[None]], ["x", None], [{}], [{"role": "user"}, 5]) if kind == "list" else ({"x": None},):
        many = wrong * 30_000 if isinstance(wrong, list) else {str(i): None for i in range(30_000)}
        checked = next(m for m in MODELS if m.__name__ == model)
        began = time.perf_counter()
        try:
            checked.model_validate({name: many})
            found = 0
        except ValidationError as error:
            found = error.error_count()
        assert found <= 3
        assert time.perf_counter() - began < 2  # 0.01 s; one error an item took seconds


def test_lists_and_dicts_are_all_looked_at() -> None:
    assert {("CompletionRequest", "prompt", "list"), ("ChatRequest", "logit_bias", "dict")} < set(FIELDS)
    assert len(FIELDS) > 15


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/detokenize", {"tokens": [None] * 200_000}),
        ("/v1/completions", {"prompt": [None] * 200_000}),
        ("/v1/completions", {"prompt": [[]] * 150_000}),
        ("/v1/completions", {"prompt": ["x"] * (MAX_PROMPTS + 1)}),
        ("/v1/completions", {"prompt": "x", "stop": [None] * 200_000}),
        ("/v1/completions", {"prompt": "x", "logit_bias": {str(i): None for i in range(100_000)}}),
        ("/v1/chat/completions", {"messages": [None] * 200_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [None] * 200_000}),
        ("/generate", {"input_ids": [[None]] * 150_000}),
        ("/generate", {"text": ["x"] * 100_000, "sampling_params": [{}] * 100_000}),
        ("/generate", {"text": "x", "sampling_params": [None] * 200_000}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_megabyte_of_wrong_values_is_refused_at_once(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    content = orjson.dumps(body)
    began = time.perf_counter()
    response = await client.post(path, content=content)
    assert time.perf_counter() - began < 4  # 0.05 s; one error an item took 8 s a megabyte
    assert response.status_code == 400
    assert len(response.content) < 500


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b"[" + b"1," * (MOST_VALUES + 1) + b"1]", MOST_VALUES),
        (b"[" + b"[]," * 150_000 + b"[" * 100_000, MOST_CONTAINERS),
        (b"{" * (MOST_CONTAINERS + 1), MOST_CONTAINERS),
    ],
    ids=["values", "lists", "objects"],
)
async def test_json_of_too_many_values_is_not_read(client: httpx.AsyncClient, body: bytes, limit: int) -> None:
    response = await client.post("/v1/completions", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert f"more than {limit} " in response.json()["error"]["message"]


def test_what_people_send_is_within_the_figures() -> None:
    check_shape(orjson.dumps({"prompt": list(range(1_000_000))}))
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello, there"}]}] * 50_000
    check_shape(orjson.dumps({"messages": messages}))
    with pytest.raises(ApiError):
        check_shape(orjson.dumps({"messages": messages * 2}))
