"""Fields of requests that are no sampling parameters of ours: those that change nothing, and those that are refused.

With :data:`zif.sampling.params.PARAMETERS` and the models beside this one it is the table of all fields that OpenAI's,
vLLM's and SGLang's requests have: each is served, or changes no answer, or is refused by name. ``docs/parameters.md``
is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import PydanticCustomError

Place = Literal["chat", "completions", "generate", "sampling_params", "conversation"]
"""Where a field stands: in the body of an endpoint, in ``/generate``'s ``sampling_params``, or in ``/tokenize``'s."""

_OPENAI: tuple[Place, ...] = ("chat", "completions")
_BODIES: tuple[Place, ...] = (*_OPENAI, "generate")
_SAMPLING: tuple[Place, ...] = (*_OPENAI, "sampling_params")


@dataclass(frozen=True)
class Field:
    """A field that is not served: what there is to say of it, and which values say nothing.

    Values that are false (null, 0, "", [], {}) say nothing, and neither do those of ``neutral``.
    """

    places: tuple[Place, ...]
    why: str
    neutral: tuple[Any, ...] = ()

    def says(self, value: Any) -> bool:
        """Return whether ``value`` asks for anything."""
        return bool(value) and not any(value == other and type(value) is type(other) for other in self.neutral)


_CONSTRAINED = "constrained output is not supported yet"
_TEXT = "prompts and answers are text or token ids"
_NO_BEAMS = "beam search is not supported"
_ONE_ENGINE = "requests are not divided among engines"
_NOT_REPORTED = "it is not reported"
_NO_REASONING = "reasoning is not told from the rest of the answer yet; templates take their own switches by "
_SWITCH = _NO_REASONING + "chat_template_kwargs"


def _fields(names: str, places: tuple[Place, ...], why: str, *neutral: Any) -> Iterator[tuple[str, Field]]:
    for name in names.split():
        yield name, Field(places, why, neutral)


REFUSED: Mapping[str, Field] = dict(
    [
        *_fields("guided_json guided_regex guided_choice guided_grammar structured_outputs", _OPENAI, _CONSTRAINED),
        *_fields("regex ebnf json_schema structural_tag grammar", _SAMPLING, _CONSTRAINED),
        *_fields("response_format", _OPENAI, "only text is supported yet", {"type": "text"}),
        *_fields("stop_regex", _SAMPLING, "answers end at texts and tokens: use stop and stop_token_ids"),
        *_fields("bad_words", _OPENAI, "use logit_bias with the ids of tokens"),
        *_fields("use_beam_search best_of_beams beam_width early_stopping", _SAMPLING, _NO_BEAMS),
        *_fields("length_penalty", _SAMPLING, _NO_BEAMS, 1, 1.0),
        *_fields("logits_processors logits_processor_args", _OPENAI, "logits processors are not supported"),
        *_fields(
            "custom_logit_processor custom_params", (*_BODIES, "sampling_params"), "there are no custom processors"
        ),
        *_fields("typical_p", _SAMPLING, "use min_p", 1, 1.0),
        *_fields("mirostat dry_multiplier xtc_probability dynatemp_range top_n_sigma", _SAMPLING, "use top_p or min_p"),
        *_fields("repetition_detection", _OPENAI, "use repetition_penalty"),
        *_fields("suffix", ("completions",), "filling in before a suffix is not supported"),
        *_fields("prompt_embeds", _OPENAI, _TEXT),
        *_fields("image_data audio_data video_data input_embeds", ("generate",), _TEXT),
        *_fields("audio mm_processor_kwargs media_io_kwargs use_audio_in_video", ("chat",), _TEXT),
        *_fields("modalities", ("chat", "generate"), _TEXT, ["text"]),
        *_fields("functions", ("chat",), "superseded by tools, whose calls are not parsed yet"),
        *_fields("function_call", ("chat",), "superseded by tool_choice", "none", "auto"),
        *_fields("web_search_options", ("chat",), "nothing is searched"),
        *_fields("moderation", _OPENAI, "nothing is moderated"),
        *_fields("reasoning_effort", ("chat",), _SWITCH, "none"),
        *_fields("reasoning thinking thinking_token_budget", ("chat",), _SWITCH),
        *_fields("verbosity", ("chat",), "say it in the messages", "medium"),
        *_fields("echo", ("chat",), "the conversation is not repeated: use continue_final_message, or completions"),
        *_fields("add_special_tokens", ("chat",), "the chat template writes special tokens itself"),
        *_fields("input_ids", ("chat",), "give messages here, or ids to completions"),
        *_fields("chat_template", ("conversation",), "templates are taken from the server alone (--chat-template)"),
        *_fields("lora_path lora_id", _BODIES, "adapters are not supported yet"),
        *_fields("priority", _BODIES, "requests have no priorities"),
        *_fields("session_params", _BODIES, "there are no sessions: prefixes are cached by themselves"),
        *_fields("extra_key", _BODIES, "use cache_salt"),
        *_fields("kv_transfer_params bootstrap_host bootstrap_port bootstrap_room", _BODIES, _ONE_ENGINE),
        *_fields("disagg_prefill_dp_rank data_parallel_rank routed_dp_rank", _BODIES, _ONE_ENGINE),
        *_fields("vllm_xargs", _OPENAI, "there is nothing that takes it"),
        *_fields("token_ids_logprob", _BODIES, "alternatives are the most likely tokens"),
        *_fields("truncate_prompt_tokens", _OPENAI, "cut the prompt yourself: /tokenize counts its tokens"),
        *_fields("return_tokens_as_token_ids", _OPENAI, "log-probabilities are reported with the text of tokens"),
        *_fields("return_hidden_states return_routed_experts return_entropy return_bytes", _BODIES, _NOT_REPORTED),
        *_fields("return_cached_tokens_details return_prompt_token_ids", _BODIES, _NOT_REPORTED),
    ]
)
"""Fields that would change the answer, or what is said of it. One that becomes served leaves this table."""

NO_EFFECT: Mapping[str, Field] = dict(
    [
        *_fields("user safety_identifier metadata", _OPENAI, "about the client"),
        *_fields("store service_tier prompt_cache_key prompt_cache_options prompt_cache_retention", _OPENAI,
                 "about OpenAI's own service; prefixes are cached by themselves"),
        *_fields("prediction", ("chat",), "it makes OpenAI's answers faster, and changes none"),
        *_fields("parallel_tool_calls", ("chat",), "no tool is called"),
        *_fields("include_reasoning separate_reasoning stream_reasoning", ("chat",), "no reasoning is told apart"),
        *_fields("request_id", _OPENAI, "the server names answers; see `rid` of `/generate`"),
        *_fields("rid", _OPENAI, "abort by the `id` of the answer"),
        *_fields("guided_decoding_backend guided_whitespace_pattern", _OPENAI, "about guided_*, which are refused"),
        *_fields("spaces_between_special_tokens", _SAMPLING, "fast tokenizers have no such spaces"),
        *_fields("stream_interval", ("sampling_params",), "tokens are sent as they come"),
        *_fields("log_metrics no_logs background", ("generate",), "about SGLang's log"),
        *_fields("external_trace_header custom_labels", ("generate",), "about SGLang's log"),
        *_fields("conversation_id routing_key validation_time", ("generate",), "about SGLang's router"),
    ]
)  # fmt: skip
"""Fields that change no answer: accepted, and nothing is done."""


def refuse(place: Place, given: Mapping[str, Any]) -> None:
    """Raise the error of the first field of ``given`` that is refused at ``place``."""
    for name in given:
        field = REFUSED.get(name)
        if field is not None and place in field.places and field.says(given[name]):
            raise PydanticCustomError("unsupported", "{field}: {why}", {"field": name, "why": field.why})
