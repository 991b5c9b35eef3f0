"""Every field of OpenAI's, vLLM's and SGLang's requests is served, changes no answer, or is refused by name.

Run as a program, it writes ``docs/parameters.md`` anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.scripted_engine import ScriptedEngine
from zif.sampling.params import PARAMETERS
from zif.server.schemas.chat import ChatRequest
from zif.server.schemas.common import RequestModel
from zif.server.schemas.completions import CompletionRequest
from zif.server.schemas.fields import NO_EFFECT, REFUSED, Place
from zif.server.schemas.generate import GenerateRequest, NativeSampling

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"
MODELS: dict[str, type[RequestModel]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "generate": GenerateRequest,
    "sampling_params": NativeSampling,
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

VLLM = """echo add_generation_prompt continue_final_message add_special_tokens documents chat_template
    chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs guided_json guided_regex guided_choice
    guided_grammar priority request_id return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params
    vllm_xargs logits_processors use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens prompt_logprobs allowed_token_ids bad_words include_reasoning thinking_token_budget
    prompt_embeds""".split()
"""Beyond OpenAI's."""
SGLANG = """text input_ids input_embeds image_data video_data audio_data sampling_params rid return_logprob
    logprob_start_len top_logprobs_num token_ids_logprob return_text_in_logprobs stream log_metrics
    return_hidden_states return_routed_experts modalities session_params lora_path lora_id custom_logit_processor
    bootstrap_host bootstrap_port bootstrap_room data_parallel_rank background conversation_id priority extra_key
    no_logs custom_labels return_bytes return_entropy external_trace_header""".split()
SGLANG_SAMPLING = """max_new_tokens stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty
    presence_penalty repetition_penalty min_new_tokens n json_schema regex ebnf structural_tag ignore_eos
    skip_special_tokens spaces_between_special_tokens no_stop_trim custom_params stream_interval logit_bias
    sampling_seed beam_width""".split()


def places(place: str) -> set[str]:
    return {place, "conversation"} if place == "chat" else {place}


def dealt_with(place: str) -> set[str]:
    """Names that zif knows there."""
    others = {name for table in (NO_EFFECT, REFUSED) for name, f in table.items() if places(place) & {*f.places}}
    return set(MODELS[place].model_fields) | others


def body(place: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    match place:
        case "chat" | "conversation":
            return PATHS["chat"], {"messages": [{"role": "user", "content": "hi"}], **fields}
        case "completions":
            return PATHS["completions"], {"prompt": "hi", **fields}
        case "generate":
            return "/generate", {"text": "hi", **fields}
    return "/generate", {"text": "hi", "sampling_params": fields}


def test_every_field_of_openais_types_is_dealt_with() -> None:
    types = pytest.importorskip("openai.types")
    chat = types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    assert {*chat, "stream"} - dealt_with("chat") == set()
    assert {*types.CompletionCreateParams.__args__[0].__annotations__, "stream"} - dealt_with("completions") == set()


def test_every_field_of_vllms_and_sglangs_requests_is_dealt_with() -> None:
    both = dealt_with("chat") | dealt_with("completions")
    assert set(VLLM) - both == set()
    assert set(SGLANG) - dealt_with("generate") == set()
    assert set(SGLANG_SAMPLING) - dealt_with("sampling_params") == set()


def test_what_is_served_is_not_refused_nor_without_effect() -> None:
    for place, model in MODELS.items():
        for table in (NO_EFFECT, REFUSED):
            assert not {name for name in model.model_fields if name in table and place in table[name].places}
    assert not NO_EFFECT.keys() & REFUSED.keys()


REFUSALS = [(place, name) for name, field in REFUSED.items() for place in field.places]


@pytest.mark.parametrize(("place", "name"), REFUSALS)
async def test_what_is_refused_is_named_and_its_neutral_values_are_not(
    client: httpx.AsyncClient, place: Place, name: str
) -> None:
    path, asked = body(place, **{name: "something"})
    response = await client.post(path, json=asked)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == ("sampling_params" if place == "sampling_params" else name)
    assert f"{name}: {REFUSED[name].why}" in error["message"]
    for neutral in (None, False, 0, "", [], {}, *REFUSED[name].neutral):
        path, asked = body(place, **{name: neutral})
        assert (await client.post(path, json=asked)).status_code == 200, neutral


@pytest.mark.parametrize("place", MODELS)
async def test_what_has_no_effect_is_accepted(client: httpx.AsyncClient, place: Place) -> None:
    names = [name for name, field in NO_EFFECT.items() if place in field.places]
    path, asked = body(place, **dict.fromkeys(names, "something"))
    assert (await client.post(path, json=asked)).status_code == 200


@pytest.mark.parametrize("place", ["chat", "completions", "sampling_params"])
async def test_defaults_that_clients_spell_out_are_taken(client: httpx.AsyncClient, place: str) -> None:
    for empty in (None, []):
        rest = {"response_format": None, "tools": empty, "tool_choice": "auto"} if place == "chat" else {}
        path, asked = body(place, n=1, stop=empty, logit_bias=None, temperature=1.0, **rest)
        assert (await client.post(path, json=asked)).status_code == 200


@pytest.mark.parametrize("name", PARAMETERS)
async def test_a_parameter_reaches_the_engine_from_every_api_that_takes_it(
    client: httpx.AsyncClient, engine: ScriptedEngine, name: str
) -> None:
    values = {
        "logit_bias": {"5": 1.0},
        "stop": ["zzz"],
        "stop_token_ids": [7],
        "top_p": 0.5,
        "max_tokens": 3,
        "min_p": 0.5,
    }
    parameter = PARAMETERS[name]
    value = values.get(name, not parameter.default if isinstance(parameter.default, bool) else 2)
    for place, api in (("chat", "openai"), ("completions", "openai"), ("sampling_params", "sglang")):
        wire = parameter.names.get(api)  # type: ignore[call-overload]
        if wire is None or name == "n":
            continue
        path, asked = body(place, **{wire: value})
        assert (await client.post(path, json=asked)).status_code == 200
        assert getattr(engine.submitted[-1].params, name) == parameter.check(value)


def page() -> str:
    """The table, as the docs have it."""
    lines = [*_head(), "## Sampling parameters", "", _row("parameter", "values", "default", "what it does")]
    lines.append("|---|---|---|---|")
    for parameter in PARAMETERS.values():
        names = " ".join(dict.fromkeys([f"`{parameter.name}`", *(f"`{name}`" for name in parameter.names.values())]))
        default = (
            {(): "none", None: "null"}.get(parameter.default, str(parameter.default).lower())
            if not isinstance(parameter.default, dict)
            else "none"
        )
        lines.append(_row(names, _values(parameter.kind.schema), default, parameter.doc.replace("``", "`")))
    for title, table in (("Accepted, without effect", NO_EFFECT), ("Refused", REFUSED)):
        lines += ["", f"## {title}", "", _row("field", "where", "why"), "|---|---|---|"]
        lines += [_row(f"`{n}`", ", ".join(f.places), f.why + _neutral(f.neutral)) for n, f in sorted(table.items())]
    return "\n".join(lines) + "\n"


def _head() -> Iterator[str]:
    yield "# Parameters of requests"
    yield ""
    yield "Made from the declarations in `core/zif/sampling/params.py` and `core/zif/server/schemas/fields.py` by"
    yield "`python tests/server/test_parameters.py`. Every field that OpenAI's, vLLM's and SGLang's requests have is"
    yield "served, changes no answer, or is refused by name with 400. A field of none of these is ignored, but in"
    yield '`sampling_params` of `/generate`, where it is refused. null, false, 0, "", [] and {} are never refused.'
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _neutral(values: tuple[Any, ...]) -> str:
    return f" (accepted: {', '.join(f'`{value}`' for value in values)})" if values else ""


def _values(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "text, or a list of up to 16")
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None:
        return str(
            {"array": "a list of token ids", "object": "token ids, a number in [-100, 100] each"}.get(kind, kind)
        )
    return f"{kind} in {'(' if 'exclusiveMinimum' in schema else '['}{low:g}, {high:g}]"


def test_the_page_of_the_docs_is_the_table() -> None:
    assert PAGE.read_text() == page(), f"write it anew: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(page())
