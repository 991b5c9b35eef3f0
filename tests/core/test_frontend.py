"""From prompts to engine requests, and from engine tokens to text, over a scripted engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tiny_tokenizer
from server.scripted_engine import ScriptedEngine, echo
from zif.contract.errors import ContextLengthExceeded, EngineDead, InvalidRequest, Overloaded, ZifError
from zif.frontend import Completion, Delta, Frontend, ModelInfo
from zif.frontend.output import collect
from zif.messages import EngineRequest
from zif.sampling.params import SamplingParams
from zif.tokenizer import Tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer.byte_level())
CONTEXT = 64


def frontend_over(engine: ScriptedEngine) -> Frontend:
    model = ModelInfo(names=("tiny",), context_length=CONTEXT, vocab_size=TOKENIZER.vocab_size, eos_token_ids=(0,))
    return Frontend(TOKENIZER, engine, model)


def says(text: str, **options: Any) -> ScriptedEngine:
    """Return an engine that answers ``text`` to everything."""
    return ScriptedEngine(lambda request: TOKENIZER.encode(text), **options)


async def complete(engine: ScriptedEngine, prompt: str | list[int] = "hello", **params: Any) -> Completion:
    return await frontend_over(engine).complete(prompt, SamplingParams(**params))


async def deltas_of(frontend: Frontend, prompt: list[int], **params: Any) -> list[Delta]:
    return [delta async for delta in frontend.generate([prompt], SamplingParams(**params))]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- text ------------------------------------------------------------------------------------


async def test_text_is_streamed_and_summed_up() -> None:
    completion = await complete(says("hello there 🙂"))
    choice = completion.choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("hello there 🙂", "length", None)
    assert choice.token_ids == TOKENIZER.encode("hello there 🙂")
    assert completion.completion_tokens == len(choice.token_ids)
    assert completion.cached_tokens == len(completion.prompt_ids) // 2


async def test_the_end_of_sequence_is_reported_but_is_no_text() -> None:
    engine = says("hello<|end|>never seen")
    for skip in (True, False):
        completion = await complete(engine, skip_special_tokens=skip)
        choice = completion.choices[0]
        assert (choice.text, choice.finish_reason, choice.stop_reason) == ("hello", "stop", None)
        assert choice.token_ids[-1] == 0
    seen = await complete(engine, skip_special_tokens=False, include_stop_str_in_output=True)
    assert seen.text == "hello<|end|>"
    ignored = await complete(engine, ignore_eos=True, skip_special_tokens=False)
    assert ignored.text == "hello<|end|>never seen"


async def test_stop_token_ids_are_named_as_the_reason() -> None:
    (stop,) = TOKENIZER.encode("<|user|>")
    choice = (await complete(says("hello<|user|>more"), stop_token_ids=(stop,))).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("hello", "stop", stop)


@pytest.mark.parametrize("chunk", [1, 3, 100])
async def test_a_stop_string_cuts_exactly_and_ends_the_engine_s_work(chunk: int) -> None:
    engine = says("one two three four five six seven", chunk=chunk, delay=0.001)
    completion = await complete(engine, stop=("ee f", "never"), logprobs=0)
    choice = completion.choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("one two thr", "stop", "ee f")
    assert TOKENIZER.decode(choice.token_ids).startswith("one two three f")
    assert choice.logprobs is not None
    assert len(choice.logprobs) == len(choice.token_ids)
    await settle()
    assert not engine.running
    assert len(engine.aborted) == (0 if chunk == 100 else 1)


async def test_text_held_back_is_given_out_at_the_end() -> None:
    completion = await complete(says("abcabc"), stop=("abcabcd",))
    assert (completion.text, completion.choices[0].finish_reason) == ("abcabc", "length")


@pytest.mark.parametrize("stop", [(), ("never",)])
async def test_a_character_cut_by_max_tokens_is_not_there(stop: tuple[str, ...]) -> None:
    engine = ScriptedEngine(lambda request: [TOKENIZER.backend.token_to_id(c) for c in "hðŁĻĤ"])
    assert (await complete(engine, max_tokens=4, stop=stop)).text == "h"
    assert (await complete(engine, max_tokens=5, stop=stop)).text == "h🙂"


async def test_stop_strings_count_only_after_min_tokens() -> None:
    text = "stop and go, stop and go"
    count = len(TOKENIZER.encode("stop and go,"))
    assert (await complete(says(text), stop=("stop",), min_tokens=count)).text == "stop and go, "
    assert (await complete(says(text), stop=("stop",))).text == ""
    begun = len(TOKENIZER.encode("one two th"))
    choice = (await complete(says("one two three"), stop=("two three",), min_tokens=begun)).choices[0]
    assert (choice.text, choice.stop_reason) == ("one ", "two three"), "begins before, ends after"


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("chunk", [1, 100])
async def test_a_special_token_s_text_can_be_a_stop_string_whether_it_is_shown_or_not(skip: bool, chunk: int) -> None:
    said = "hello<|user|>there<|system|>more"
    for stop, text in (("<|user|>", "hello"), ("e<|system|>m", "hello<|user|>ther"), ("|>there<", "hello<|user")):
        shown = text if not skip else text.replace("<|user|>", "").replace("<|user", "")
        completion = await complete(says(said, chunk=chunk), stop=(stop,), skip_special_tokens=skip, logprobs=0)
        choice = completion.choices[0]
        assert (choice.text, choice.finish_reason, choice.stop_reason) == (shown, "stop", stop)
        assert choice.logprobs is not None
        assert all(token.text_offset <= len(shown) for token in choice.logprobs)
    kept = await complete(says(said), stop=("e<|system|>m",), skip_special_tokens=skip, include_stop_str_in_output=True)
    assert kept.text == ("hellotherem" if skip else "hello<|user|>there<|system|>m")


@pytest.mark.parametrize("skip", [True, False])
async def test_offsets_are_those_of_the_text_that_is_seen(skip: bool) -> None:
    completion = await complete(says("a<|user|>é<|system|>🙂!"), skip_special_tokens=skip, logprobs=0)
    choice = completion.choices[0]
    assert choice.logprobs is not None
    seen = [token for token in choice.logprobs if token.chosen.text in ("a", "!", "<|user|>")]
    for token in seen:
        if token.chosen.text in choice.text:
            assert choice.text[token.text_offset :].startswith(token.chosen.text)
    assert choice.logprobs[-1].text_offset == len(choice.text) - 1


async def test_logprobs_know_tokens_bytes_and_offsets() -> None:
    completion = await complete(says("né🙂!"), logprobs=2, prompt_logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert b"".join(token.chosen.data for token in logprobs) == "né🙂!".encode()
    assert [token.chosen.token_id for token in logprobs] == TOKENIZER.encode("né🙂!")
    assert logprobs[-1].text_offset == 3
    assert [len(token.top) for token in logprobs] == [2] * len(logprobs)
    assert completion.prompt_logprobs is not None
    assert len(completion.prompt_logprobs) == len(completion.prompt_ids)
    assert completion.prompt_logprobs[0] is None


async def test_a_conversation_can_be_completed_too() -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        await frontend_over(says("x")).complete([{"role": "user", "content": "hi"}], SamplingParams())


# --- requests --------------------------------------------------------------------------------


async def test_choices_are_separate_requests_with_seeds_of_their_own() -> None:
    engine = ScriptedEngine(lambda request: [request.params.seed % 300] * 3)  # type: ignore[operator]
    frontend = frontend_over(engine)
    prompts = [[5, 6], [7]]
    params = SamplingParams(n=3, seed=11, max_tokens=3)
    completions = await collect(prompts, frontend.generate(prompts, params))
    assert [[choice.index for choice in one.choices] for one in completions] == [[0, 1, 2], [3, 4, 5]]
    seeds = [request.params.seed for request in sorted(engine.submitted, key=lambda r: r.request_id.split("-")[-1])]
    assert len(set(seeds)) == 3
    assert seeds[:3] == seeds[3:]
    assert seeds[0] == 11
    assert len({request.request_id for request in engine.submitted}) == 6
    alone = await frontend.complete([5, 6], SamplingParams(seed=11, max_tokens=3))
    assert alone.choices[0].token_ids == completions[0].choices[0].token_ids


async def test_without_a_seed_the_engine_chooses_one() -> None:
    engine = ScriptedEngine(echo)
    for _ in range(2):
        await complete(engine, max_tokens=1, n=2)
    assert {request.params.seed for request in engine.submitted} == {None}


async def test_max_tokens_is_cut_to_the_room_that_the_prompt_leaves() -> None:
    for asked in (None, 10**12, CONTEXT):
        engine = ScriptedEngine(echo)
        completion = await complete(engine, [9] * 60, max_tokens=asked)
        assert engine.submitted[0].params.max_tokens == CONTEXT - 60
        assert completion.choices[0].finish_reason == "length"
    engine = ScriptedEngine(echo)
    await complete(engine, [9] * 60, max_tokens=30, min_tokens=20)
    assert engine.submitted[0].params.min_tokens == CONTEXT - 60


async def test_no_tokens_asked_for_no_tokens_made() -> None:
    engine = ScriptedEngine(echo)
    completion = await complete(engine, "hello", max_tokens=0)
    assert (completion.text, completion.choices[0].finish_reason) == ("", "length")
    assert engine.submitted.pop().params.max_tokens == 0
    whole = await complete(engine, [1] * CONTEXT, max_tokens=0, prompt_logprobs=0)
    assert whole.prompt_logprobs is not None, "a prompt alone may fill the context"
    engine.submitted.clear()
    scored = await complete(engine, "hello", max_tokens=0, prompt_logprobs=0, logprobs=0)
    assert scored.prompt_logprobs is not None
    assert scored.completion_tokens == 0
    assert engine.submitted[0].params.max_tokens == 0


@pytest.mark.parametrize(
    ("prompt", "params", "error", "words"),
    [
        ([], {}, InvalidRequest, "must not be empty"),
        ("", {}, InvalidRequest, "must not be empty"),
        ([1, 10**6], {}, InvalidRequest, "token id 1000000 at position 1"),
        ([-1], {}, InvalidRequest, "token id -1"),
        ([1] * CONTEXT, {}, ContextLengthExceeded, f"maximum context length is {CONTEXT} tokens.* has {CONTEXT}"),
        ([1], {"logit_bias": {10**6: 1.0}}, InvalidRequest, "logit_bias: token id 1000000"),
        ([1], {"stop_token_ids": (-3,)}, InvalidRequest, "stop_token_ids: token id -3"),
    ],
)
async def test_requests_that_cannot_be_served(
    prompt: str | list[int], params: dict[str, Any], error: type[Exception], words: str
) -> None:
    engine = ScriptedEngine()
    with pytest.raises(error, match=words):
        await complete(engine, prompt, **params)
    assert not engine.submitted


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_that_is_closed_is_aborted(n: int) -> None:
    engine = ScriptedEngine(delay=0.001)
    stream = frontend_over(engine).generate([[5]], SamplingParams(n=n))
    await anext(stream)
    assert len(engine.running) == n
    await stream.aclose()
    await settle()
    assert not engine.running
    assert len(engine.aborted) == n


async def test_a_reader_that_is_cancelled_aborts() -> None:
    engine = ScriptedEngine(delay=0.001)
    reader = asyncio.create_task(deltas_of(frontend_over(engine), [5]))
    await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await settle()
    assert len(engine.aborted) == 1
    assert not engine.running


async def test_requests_can_be_aborted_by_name() -> None:
    engine = ScriptedEngine(delay=0.001)
    frontend = frontend_over(engine)
    stream = frontend.generate([[5]], SamplingParams(n=2), request_id="mine")
    await anext(stream)
    with pytest.raises(InvalidRequest, match="'mine' is running"):
        frontend.generate([[5]], SamplingParams(), request_id="mine")
    assert await frontend.abort("unknown") == 0
    assert await frontend.abort("mine") == 2
    reasons = [delta.finish_reason async for delta in stream if delta.finish_reason]
    assert reasons == ["abort", "abort"]
    assert frontend.live == 0


async def test_one_choice_that_fails_takes_the_others_along() -> None:
    engine = ScriptedEngine(delay=0.001, limit=2)
    with pytest.raises(Overloaded):
        await complete(engine, n=3)
    await settle()
    assert not engine.running


async def test_a_dead_engine_ends_streams_with_its_reason() -> None:
    engine = ScriptedEngine(delay=0.001)
    stream = frontend_over(engine).generate([[5]], SamplingParams(n=2))
    await anext(stream)
    engine.die("killed by signal 9")
    with pytest.raises(EngineDead, match="signal 9"):
        async for _ in stream:
            pass
    assert not engine.aborted


async def test_a_request_that_the_engine_fails_on_is_an_error() -> None:
    engine = ScriptedEngine()
    engine.fail_requests = "the grammar is broken"
    with pytest.raises(ZifError, match="grammar is broken"):
        await complete(engine)


async def test_an_engine_that_forgets_a_request_is_found_out() -> None:
    def nothing(request: EngineRequest) -> list[int]:
        return []

    with pytest.raises(EngineDead, match="without a finish reason"):
        await complete(ScriptedEngine(nothing))


async def test_a_stream_that_always_has_something_ready_lets_others_run() -> None:
    class Ready(ScriptedEngine):
        """Never waits."""

        async def _interrupted(self, interrupt: asyncio.Event) -> bool:
            return False

    frontend, turns = frontend_over(Ready()), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    deltas = await deltas_of(frontend, [5], max_tokens=60)
    beside.cancel()
    assert len(deltas) == 60
    assert turns >= 60 // 8
