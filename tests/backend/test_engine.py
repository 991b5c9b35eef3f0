"""The engine on a real backend: what requests get, whatever runs beside them and however steps are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from backend.checkpoints import VOCAB, Saved, save
from zif.contract.attention import AttentionSpec
from zif.contract.errors import InvalidSettings
from zif.contract.kernels import kernel
from zif.contract.step import Step
from zif.engine.engine import Engine
from zif.engine.warmup import warm_up
from zif.messages import EngineOutput, EngineRequest
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.reference.torch.reference import TorchReference
from zif.sampling.params import SamplingParams
from zif.settings import Settings

RNG = np.random.default_rng(11)
PROMPTS = [RNG.integers(0, VOCAB, size).tolist() for size in (3, 37, 18, 52)]
GREEDY = SamplingParams(temperature=0, max_tokens=10)
DRAWN = SamplingParams(temperature=1.0, max_tokens=10, seed=5)


@dataclass
class Answer:
    """Everything the engine said of a request."""

    tokens: list[int] = field(default_factory=list)
    last: EngineOutput = field(default_factory=lambda: EngineOutput(""))
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] | None = None


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("gemma3", tmp_path_factory.mktemp("gemma3"))


def engine_of(saved: Saved, *, asynchronous: bool = False, **settings: Any) -> Engine:
    """An engine on the torch reference; ``asynchronous`` has it overlap steps, as it would on an accelerator."""
    backend = TorchBackend(TorchRuntime())
    if asynchronous:
        backend.capabilities = replace(backend.capabilities, asynchronous=True)
    own = {"max_total_tokens": 2048, "page_size": 4, "dtype": "float32"}
    return build_engine(Settings(model=str(saved.path), **{**own, **settings}), progress=False, backend=backend)


def run(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams | Sequence[SamplingParams], eos: int = -1
) -> list[Answer]:
    """Add all prompts at once and step until they have ended."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    answers = {str(i): Answer() for i in range(len(prompts))}
    for i, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
        assert engine.add(EngineRequest(str(i), prompt, own, () if eos < 0 else (eos,))) is None
    while engine.has_work:
        for output in engine.step():
            answer = answers[output.request_id]
            answer.tokens += output.token_ids
            answer.logprobs += output.logprobs or []
            answer.prompt_logprobs = output.prompt_logprobs or answer.prompt_logprobs
            answer.last = output
    return list(answers.values())


def tokens_of(answers: list[Answer]) -> list[list[int]]:
    return [answer.tokens for answer in answers]


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"page_size": 1},
        {"page_size": 16, "chunked_prefill_size": 7},
        {"disable_radix_cache": True, "chunked_prefill_size": 16},
        {"max_running_requests": 2},
        {"asynchronous": True},
        {"asynchronous": True, "chunked_prefill_size": 11, "max_running_requests": 3},
    ],
    ids=str,
)
def test_greedy_tokens_are_the_reference_implementations(llama: Saved, settings: dict[str, Any]) -> None:
    expected = [llama.continue_greedily(prompt, 10) for prompt in PROMPTS]
    assert tokens_of(run(engine_of(llama, **settings), PROMPTS, GREEDY)) == expected


@pytest.mark.parametrize("asynchronous", [False, True])
def test_two_cache_groups_with_windows(gemma: Saved, asynchronous: bool) -> None:
    engine = engine_of(gemma, asynchronous=asynchronous, chunked_prefill_size=16)
    expected = [gemma.continue_greedily(prompt, 10) for prompt in PROMPTS]
    assert tokens_of(run(engine, PROMPTS, GREEDY)) == expected
    assert tokens_of(run(engine, PROMPTS, GREEDY)) == expected  # now from the prefix cache


def test_cached_prefix_gives_the_same_tokens_and_is_counted(llama: Saved) -> None:
    engine = engine_of(llama)
    cold = run(engine, PROMPTS, GREEDY)
    warm = run(engine, PROMPTS, GREEDY)
    assert tokens_of(warm) == tokens_of(cold)
    assert [answer.last.cached_tokens for answer in cold] == [0, 0, 0, 0]
    assert [answer.last.cached_tokens for answer in warm] == [0, 36, 16, 48]  # whole pages, never the last token


@pytest.mark.parametrize("asynchronous", [False, True])
def test_running_out_of_cache_retracts_and_changes_nothing(llama: Saved, asynchronous: bool) -> None:
    params = [
        SamplingParams(temperature=0.8, max_tokens=40, seed=i, frequency_penalty=0.5, logprobs=1) for i in range(4)
    ]
    roomy = run(engine_of(llama, asynchronous=asynchronous), PROMPTS, params)
    tight = engine_of(llama, asynchronous=asynchronous, max_total_tokens=160, schedule_conservativeness=0.01)
    answers = run(tight, PROMPTS, params)
    assert tight.stats()["retractions_total"] > 0
    assert tokens_of(answers) == tokens_of(roomy)
    assert [len(answer.logprobs) for answer in answers] == [40] * 4


def test_a_requests_random_bits_are_its_own(llama: Saved) -> None:
    alone = run(engine_of(llama), [PROMPTS[1]], DRAWN)[0].tokens
    crowd = [DRAWN, DRAWN, SamplingParams(temperature=2.0, max_tokens=3, seed=1), GREEDY]
    assert run(engine_of(llama, chunked_prefill_size=9), PROMPTS, crowd)[1].tokens == alone
    assert run(engine_of(llama), [PROMPTS[1]], SamplingParams(max_tokens=10, seed=6))[0].tokens != alone


def test_requests_without_a_seed_follow_the_engines(llama: Saved) -> None:
    params = SamplingParams(max_tokens=10)
    first = tokens_of(run(engine_of(llama, random_seed=1), [PROMPTS[0]] * 2, params))
    assert tokens_of(run(engine_of(llama, random_seed=1), [PROMPTS[0]] * 2, params)) == first
    assert first[0] != first[1]
    assert tokens_of(run(engine_of(llama, random_seed=2), [PROMPTS[0]] * 2, params)) != first


def test_logprobs_of_prompt_and_output(llama: Saved) -> None:
    prompt = PROMPTS[1]
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=3, prompt_logprobs=2, repetition_penalty=1.5)
    answer = run(engine_of(llama, chunked_prefill_size=8), [prompt, PROMPTS[3]], [params, GREEDY])[0]
    expected = log_softmax(llama.logits(prompt + answer.tokens))
    assert answer.prompt_logprobs is not None
    assert answer.prompt_logprobs[0] is None
    scored = answer.prompt_logprobs[1:] + answer.logprobs
    assert len(scored) == len(prompt) - 1 + 4
    for position, score in enumerate(scored):
        row = expected[position]
        token = (prompt + answer.tokens)[position + 1]
        best = np.argsort(-row)[: len(score.top)].tolist()
        assert score.token_id == token
        assert score.logprob == pytest.approx(row[token], abs=1e-4)
        assert score.rank == 1 + int((row > row[token]).sum())
        assert [i for i, _ in score.top] == best
        assert [value for _, value in score.top] == pytest.approx(row[best].tolist(), abs=1e-4)
    assert {len(score.top) for score in answer.logprobs} == {3}


def test_a_prompt_can_be_scored_without_a_token_drawn(llama: Saved) -> None:
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    answer = run(engine_of(llama, chunked_prefill_size=8), [PROMPTS[1]], params)[0]
    assert answer.tokens == []
    assert answer.last.finish_reason == "length"
    assert answer.prompt_logprobs is not None
    assert len(answer.prompt_logprobs) == len(PROMPTS[1])


def penalized_greedy(saved: Saved, prompt: list[int], params: SamplingParams) -> list[int]:
    """Greedy decoding with penalties, as OpenAI and Keskar et al. define them, from whole-sequence logits."""
    tokens: list[int] = []
    for _ in range(params.max_tokens or 0):
        logits = saved.logits(prompt + tokens)[-1].astype(np.float64)
        counts = np.bincount(tokens, minlength=VOCAB)
        seen = np.union1d(prompt, tokens).astype(int)
        logits[seen] = np.where(
            logits[seen] > 0, logits[seen] / params.repetition_penalty, logits[seen] * params.repetition_penalty
        )
        logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        for token, bias in params.logit_bias.items():
            logits[token] += bias
        if params.allowed_token_ids:
            logits[np.setdiff1d(np.arange(VOCAB), params.allowed_token_ids)] = -np.inf
        tokens.append(int(logits.argmax()))
    return tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.8},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7},
        {"logit_bias": {17: 8.0, 3: -100.0}},
        {"repetition_penalty": 1.3, "frequency_penalty": 1.0, "logit_bias": {0: 4.0}},
        {"allowed_token_ids": [5]},
        {"allowed_token_ids": list(range(0, VOCAB, 3)), "presence_penalty": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_penalties_and_biases(llama: Saved, changes: dict[str, Any], asynchronous: bool) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, **changes)
    answers = run(engine_of(llama, asynchronous=asynchronous), PROMPTS[:3], [params, GREEDY, params])
    assert answers[0].tokens == penalized_greedy(llama, PROMPTS[0], params)
    assert answers[1].tokens == llama.continue_greedily(PROMPTS[1], 10)  # its neighbours' penalties are not its own
    assert answers[2].tokens == penalized_greedy(llama, PROMPTS[2], params)


def test_min_tokens_forbids_ends_until_then(llama: Saved) -> None:
    prompt = PROMPTS[1]
    greedy = llama.continue_greedily(prompt, 10)
    eos, stop = list(dict.fromkeys(greedy))[1:3]  # neither is the very first token
    ended = run(engine_of(llama), [prompt], GREEDY, eos=eos)[0]
    until = greedy[: greedy.index(eos) + 1]
    assert (ended.tokens, ended.last.finish_reason, ended.last.stop_reason) == (until, "stop", None)
    ignoring = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    assert run(engine_of(llama), [prompt], ignoring, eos=eos)[0].tokens == greedy
    stopped = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=(stop,))
    answer = run(engine_of(llama), [prompt], stopped, eos=eos)[0]
    assert (answer.tokens[-1], answer.last.finish_reason, answer.last.stop_reason) == (stop, "stop", stop)
    longer = SamplingParams(temperature=0, max_tokens=20, min_tokens=6, stop_token_ids=(stop,))
    tokens = run(engine_of(llama), [prompt], longer, eos=eos)[0].tokens
    assert len(tokens) >= 6
    assert not {eos, stop} & set(tokens[:5])


def test_truncated_sampling_draws_only_what_is_left(llama: Saved) -> None:
    prompt = PROMPTS[2]
    likely = np.argsort(-llama.logits(prompt)[-1])
    first_of = [
        run(engine_of(llama), [prompt] * 24, [SamplingParams(max_tokens=1, seed=i, **cut) for i in range(24)])
        for cut in ({"top_k": 3}, {"min_p": 0.999}, {"top_p": 1e-6}, {})
    ]
    drawn = [{answer.tokens[0] for answer in answers} for answers in first_of]
    assert drawn[0] <= set(likely[:3].tolist())
    assert len(drawn[0]) > 1
    assert drawn[1] == drawn[2] == {int(likely[0])}
    assert len(drawn[3]) > 3


def test_abort_frees_everything(llama: Saved) -> None:
    engine = engine_of(llama, asynchronous=True)
    free = engine.stats()["pages_free"]
    for i, prompt in enumerate(PROMPTS):
        engine.add(EngineRequest(str(i), prompt, GREEDY))
    engine.step()
    engine.step()
    aborted = engine.abort(["1"])
    assert [(output.request_id, output.finish_reason) for output in aborted] == [("1", "abort")]
    assert engine.abort(["1", "nobody"]) == []
    assert len(engine.abort()) == 3
    while engine.has_work:
        assert engine.step() == []
    assert engine.flush_cache()
    assert engine.stats()["pages_free"] == free


def test_what_cannot_be_served_is_refused_and_says_why(llama: Saved) -> None:
    engine = engine_of(llama, max_queued_requests=1, max_running_requests=1)
    long = engine.add(EngineRequest("long", [1] * 500, GREEDY))
    assert long is not None
    assert long.finish_reason == "error"
    assert "500 tokens" in str(long.error)
    assert engine.add(EngineRequest("a", [1, 2], GREEDY)) is None  # there is a row for it
    assert engine.add(EngineRequest("b", [1, 2], GREEDY)) is None
    refused = engine.add(EngineRequest("c", [1, 2], GREEDY))
    assert refused is not None
    assert refused.overloaded


def test_warming_up_changes_nothing_that_a_request_sees(llama: Saved) -> None:
    engine = engine_of(llama, max_running_requests=3)
    compiled = warm_up(engine.runner)
    answers = run(engine, PROMPTS[:3], GREEDY)
    assert tokens_of(answers) == [llama.continue_greedily(prompt, 10) for prompt in PROMPTS[:3]]
    new = {program.name for program in engine.runner.programs[compiled:]}
    assert not any(name.startswith("decode") for name in new), new


def test_aborting_a_prompt_that_is_being_scored(llama: Saved) -> None:
    engine = engine_of(llama, chunked_prefill_size=8)
    params = SamplingParams(max_tokens=1, prompt_logprobs=1)
    for i in range(2):
        engine.add(EngineRequest(str(i), PROMPTS[3], params))
    engine.step()  # a chunk of the first; the second waits
    assert [output.prompt_logprobs for output in engine.abort()] == [None, None]


def test_a_scored_prompt_that_is_retracted_is_scored_whole(llama: Saved) -> None:
    scored = SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=0)
    long = SamplingParams(temperature=0, max_tokens=60)
    expected = run(engine_of(llama), [PROMPTS[3]], scored)[0].prompt_logprobs
    tight = engine_of(llama, max_total_tokens=112, chunked_prefill_size=4, schedule_conservativeness=0.01)
    answers = run(tight, [PROMPTS[0], PROMPTS[2], PROMPTS[3]], [long, long, scored])
    assert tight.stats()["retractions_total"] > 0
    assert answers[2].prompt_logprobs is not None
    assert expected is not None
    assert [s and s.token_id for s in answers[2].prompt_logprobs] == [s and s.token_id for s in expected]
    assert [s.logprob for s in answers[2].prompt_logprobs[1:]] == pytest.approx(
        [s.logprob for s in expected[1:]], abs=1e-4
    )


def test_scoring_a_long_prompt_does_not_keep_its_logits(llama: Saved) -> None:
    engine = engine_of(llama, chunked_prefill_size=128)
    run(engine, [PROMPTS[3] * 2], SamplingParams(max_tokens=1, prompt_logprobs=1))
    staged = sum(program.memory_bytes for program in engine.runner.programs if program.name.startswith("sample"))
    assert staged < 104 * VOCAB * 4  # less than one copy of them


def test_many_ends_with_min_tokens_are_refused(llama: Saved) -> None:
    params = SamplingParams(max_tokens=9, min_tokens=2, stop_token_ids=tuple(range(50)))
    refused = engine_of(llama).add(EngineRequest("a", [1], params, tuple(range(100, 120))))
    assert refused is not None
    assert "70" in str(refused.error)


class RoundedReference(TorchReference):
    """Keys and values that eight bits can hold, in a cache of the activations' dtype."""

    level = 1
    kind = torch.float8_e4m3fn

    @kernel("kv_write")
    def kv_write(self, k: Any, v: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        k, v = (x.to(self.kind).to(x.dtype) for x in (k, v))
        return super().kv_write(k, v, cache, layer, step, spec)


@pytest.mark.parametrize("flag", ["fp8_e4m3", "fp8_e5m2"])
def test_a_cache_of_eight_bits_holds_rounded_numbers_in_a_quarter_of_the_bytes(
    llama: Saved, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(RoundedReference, "kind", torch.float8_e5m2 if flag == "fp8_e5m2" else torch.float8_e4m3fn)
    scored = SamplingParams(temperature=0, max_tokens=6, logprobs=0, prompt_logprobs=0)
    exact, narrow = engine_of(llama), engine_of(llama, kv_cache_dtype=flag)
    monkeypatch.setattr(TorchBackend, "kernels", lambda self: (RoundedReference(),))
    rounded = engine_of(llama)
    assert exact.stats()["cache_bytes"] == 4 * narrow.stats()["cache_bytes"]
    wanted, found = run(rounded, PROMPTS, scored), run(narrow, PROMPTS, scored)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in wanted]
    assert [answer.logprobs for answer in found] == [answer.logprobs for answer in wanted]
    assert [answer.prompt_logprobs for answer in found] == [answer.prompt_logprobs for answer in wanted]
    assert found[1].prompt_logprobs != run(exact, PROMPTS, scored)[1].prompt_logprobs


def test_a_cache_of_int8_has_scales_beside_it_and_loses_less_than_floats_of_eight_bits(llama: Saved) -> None:
    scored = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=0)
    exact, scaled, narrow = (engine_of(llama, kv_cache_dtype=name) for name in ("float32", "int8", "fp8_e4m3"))
    dim = scaled.runner.cache.groups[0].group.head_dim
    assert exact.stats()["cache_bytes"] * (dim + 4) == scaled.stats()["cache_bytes"] * 4 * dim

    def scores(engine: Engine) -> Any:
        answers = run(engine, PROMPTS, scored)
        return np.array([entry.logprob for answer in answers for entry in (answer.prompt_logprobs or [])[1:]])

    wanted = scores(exact)
    off, more = (np.abs(scores(engine) - wanted).mean() for engine in (scaled, narrow))
    assert 0 < off < more / 2


def test_a_cache_that_the_backend_cannot_store_is_refused(llama: Saved) -> None:
    with pytest.raises(InvalidSettings, match="fp4: torch stores keys and values in float32, bfloat16, fp8_e4m3"):
        engine_of(llama, kv_cache_dtype="fp4")


BROKEN = VOCAB - 1


class BrokenEmbedding(TorchReference):
    """A model with a NaN in one row of its embedding."""

    level = 1

    @kernel("embedding")
    def embedding(self, ids: torch.Tensor, w: Any, step: Any = None) -> torch.Tensor:
        (inner,) = [k for k in TorchReference().kernels() if k.op == "embedding"]
        x = inner.make(None, None)(ids, w)  # type: ignore[arg-type]
        return x.masked_fill((ids == BROKEN)[:, None], torch.nan)


SAMPLERS = {
    "greedy": GREEDY,
    "drawn": DRAWN,
    "filtered": replace(DRAWN, top_k=5, top_p=0.8),
    "adjusted": replace(DRAWN, repetition_penalty=1.2),
    "scored": replace(GREEDY, logprobs=2),
    "filtered, adjusted, scored": replace(DRAWN, top_p=0.9, presence_penalty=0.5, logprobs=1),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("params", SAMPLERS.values(), ids=SAMPLERS)
def test_logits_that_are_not_sound_fail_their_request_alone(
    llama: Saved, params: SamplingParams, asynchronous: bool
) -> None:
    backend = TorchBackend(TorchRuntime())
    backend.kernels = lambda: (BrokenEmbedding(),)  # type: ignore[method-assign]
    backend.capabilities = replace(backend.capabilities, asynchronous=asynchronous)
    settings = {"max_total_tokens": 2048, "page_size": 4, "dtype": "float32"}
    engine = build_engine(Settings(model=str(llama.path), **settings), progress=False, backend=backend)
    params = replace(params, logit_bias={BROKEN: -100.0})  # never drawn by the others
    alone = tokens_of(run(engine, PROMPTS[:2], params))
    broken = [*PROMPTS[2][:5], BROKEN, *PROMPTS[2][5:]]
    *well, bad = run(engine, [*PROMPTS[:2], broken], params)
    assert tokens_of(well) == alone
    assert (bad.tokens, bad.last.finish_reason, bad.last.faulty) == ([], "error", True)
    assert "NaN" in (bad.last.error or "")
    assert engine.stats()["faults_total"] == 1


def test_a_prompt_whose_scores_are_not_sound_fails(llama: Saved) -> None:
    class OneRow(TorchReference):
        level = 1

        @kernel("logits")
        def logits(self, x: torch.Tensor, w: Any, step: Any = None) -> torch.Tensor:
            (inner,) = [k for k in TorchReference().kernels() if k.op == "linear"]
            y = inner.make(None, None)(x, w).float()  # type: ignore[arg-type]
            if len(y) > 8:
                y[3, 7] = torch.inf
            return y

    backend = TorchBackend(TorchRuntime())
    backend.kernels = lambda: (OneRow(), TorchReference())  # type: ignore[method-assign]
    engine = build_engine(
        Settings(model=str(llama.path), max_total_tokens=2048, dtype="float32"), progress=False, backend=backend
    )
    plain, scored = run(engine, [PROMPTS[2], PROMPTS[1]], [GREEDY, replace(GREEDY, prompt_logprobs=1)])
    assert len(plain.tokens) == 10
    assert (scored.tokens, scored.last.finish_reason, scored.last.faulty) == ([], "error", True)
    assert scored.prompt_logprobs is None
