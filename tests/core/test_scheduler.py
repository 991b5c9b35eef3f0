"""What the scheduler does with a few requests whose course is known."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from core.simulated_device import EOS, VOCAB, Group, Session, answer
from zif.contract.errors import ContextLengthExceeded, InvalidRequest, InvalidSettings, Overloaded
from zif.sampling.params import SamplingParams
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.distrust import MOST, Distrusted
from zif.scheduler.request import Request
from zif.scheduler.waiting import Waiting

FULL = [Group("full")]
MIXED = [Group("full"), Group("window", 6)]
CONFIG = SchedulerConfig(context_length=256, max_running_requests=8, chunked_prefill_size=64)


def session(groups: list[Group] | None = None, pages: int = 200, **changes: object) -> Session:
    groups = groups or FULL
    return Session(replace(CONFIG, **changes), groups, [pages] * len(groups))  # type: ignore[arg-type, unused-ignore]


def prompt(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, VOCAB, length).tolist()  # type: ignore[no-any-return]


def overlap_modes() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("overlap", [False, True], ids=["step by step", "overlapped"])


@overlap_modes()
def test_a_request_answers_and_leaves_nothing_behind(overlap: bool) -> None:
    s = session(overlap=overlap)
    request = s.add(prompt(1, 10), max_tokens=20, ignore_eos=True)
    s.run()
    assert s.ended[request.id] == "length"
    assert len(s.emitted[request.id]) == 20
    assert len(s.batches) == 20, "ends by count are foreseen: no step is wasted"
    s.check_drained()


def test_a_stop_found_late_costs_one_step_and_no_token() -> None:
    for seed in range(20):
        s = session()
        request = s.add(prompt(seed, 10), max_tokens=50)
        s.run()
        if s.ended[request.id] == "stop":
            assert s.emitted[request.id][-1] == EOS
            assert len(s.batches) == len(s.emitted[request.id]) + 1
            s.check_drained()
            return
    raise AssertionError("no seed gave an EOS")


@overlap_modes()
def test_decodes_go_on_while_a_long_prompt_is_prefilled(overlap: bool) -> None:
    s = session(overlap=overlap, chunked_prefill_size=16)
    s.add(prompt(1, 8), max_tokens=30, ignore_eos=True)
    s.step()
    s.add(prompt(2, 40), max_tokens=2, ignore_eos=True)
    s.run()
    mixed = [b for b in s.batches if b.num_decodes and not b.decode_only]
    assert [b.counts.tolist() for b in mixed] == [[1, 16], [1, 16], [1, 8]]
    assert [b.samples.tolist() for b in mixed] == [[True, False], [True, False], [True, True]]
    s.check_drained()


def test_a_decode_takes_its_token_from_the_table() -> None:
    s = session()
    s.add(prompt(1, 8), max_tokens=3, ignore_eos=True)
    s.run()
    first, *others = s.batches
    assert first.tokens.tolist() == prompt(1, 8)
    assert not first.decode_only
    assert all(b.decode_only and len(b.tokens) == 0 for b in others)
    assert [b.starts.tolist() for b in others] == [[8], [9]]


@pytest.mark.parametrize("groups", [FULL, MIXED], ids=["full", "mixed"])
def test_a_prefix_is_computed_once(groups: list[Group]) -> None:
    s = session(groups)
    first = s.add(prompt(1, 21), max_tokens=4, ignore_eos=True)
    s.run()
    again = s.add(prompt(1, 21), max_tokens=4, ignore_eos=True)
    longer = s.add(prompt(1, 21) + s.emitted[first.id] + [1, 2, 3], max_tokens=1)
    s.run()
    assert (first.cached_tokens, again.cached_tokens, longer.cached_tokens) == (0, 20, 24)
    s.check_drained()


def test_the_last_prompt_token_is_always_computed() -> None:
    s = session()
    for _ in range(2):
        request = s.add(prompt(1, 16), max_tokens=1)
        s.run()
    assert request.cached_tokens == 12


@pytest.mark.parametrize("count", range(20, 28))
def test_the_next_turn_finds_the_window_of_the_last(count: int) -> None:
    s = session(MIXED)
    first = s.add(prompt(1, 30), max_tokens=count, ignore_eos=True)
    s.run()
    turn = s.add(first.prompt_ids + first.output_ids + [1, 2, 3], max_tokens=1)
    s.run()
    assert turn.cached_tokens == (30 + count - 1) // 4 * 4
    s.check_drained()


def test_a_prefix_is_not_evicted_under_a_step_in_flight() -> None:
    s = session(pages=11)
    s.add(prompt(1, 9), max_tokens=1)
    s.run()
    reader = s.add(prompt(1, 9), max_tokens=5)
    s.step()
    assert s.device.in_flight
    s.abort(reader.id)
    s.add(prompt(2, 38), max_tokens=1)
    s.run()
    s.check_drained()


def test_requests_that_share_a_prefix_wait_for_the_first() -> None:
    s = session(max_running_requests=64, chunked_prefill_size=4096, context_length=1024, pages=2000)
    shared = prompt(0, 512)
    requests = [s.add(shared + prompt(i + 1, 32), max_tokens=2, ignore_eos=True) for i in range(64)]
    s.run()
    assert [r.cached_tokens for r in requests] == [0] + [512] * 63
    assert sum(b.num_tokens - b.num_decodes for b in s.batches) == 512 + 64 * 32
    s.check_drained()


def test_without_a_cache_nothing_is_kept() -> None:
    s = session(radix_cache=False)
    for _ in range(2):
        request = s.add(prompt(1, 16), max_tokens=5)
        s.run()
        assert request.cached_tokens == 0
        assert s.scheduler.stats()["pages_free"] == s.scheduler.stats()["pages_total"]


def test_the_longest_match_is_served_first_but_nobody_is_overtaken_for_ever() -> None:
    s = session(max_running_requests=1, pages=2000)
    s.scheduler._waiting._max_overtaken = 3
    s.add(prompt(0, 40), max_tokens=1)
    s.run()
    other = s.add(prompt(1, 40), max_tokens=1)
    hits = [s.add(prompt(0, 40), max_tokens=1) for _ in range(6)]
    s.run()
    assert list(s.ended)[1:] == [r.id for r in [*hits[:3], other, *hits[3:]]]


def test_first_come_first_served() -> None:
    s = session(max_running_requests=1, policy="fcfs")
    s.add(prompt(0, 40), max_tokens=1)
    s.run()
    s.add(prompt(1, 40), max_tokens=1)
    s.add(prompt(0, 40), max_tokens=1)
    s.run()
    assert list(s.ended) == ["0", "1", "2"]


@overlap_modes()
@pytest.mark.parametrize("groups", [FULL, MIXED], ids=["full", "mixed"])
def test_when_memory_runs_out_the_youngest_is_retracted_and_no_token_is_lost(
    overlap: bool, groups: list[Group]
) -> None:
    s = session(groups, pages=32, overlap=overlap, conservativeness=0.0, context_length=100)
    requests = [s.add(prompt(i, 12), max_tokens=60, ignore_eos=True) for i in range(4)]
    s.run()
    assert s.scheduler.stats()["retractions_total"] > 0
    assert requests[0].retractions == 0, "the oldest makes progress"
    assert next(iter(s.ended)) == "0"
    s.check_drained()


def test_a_retracted_request_comes_back_with_all_it_had() -> None:
    s = session(pages=32, overlap=False, conservativeness=0.0, radix_cache=False, context_length=100)
    for i in range(4):
        s.add(prompt(i, 12), max_tokens=60, ignore_eos=True)
    s.run()
    again = [(b, r) for b in s.batches for r in b.new_requests if b.step > 0 and r.retractions]
    assert again
    for batch, request in again:
        entry = batch.requests.index(request)
        assert batch.starts[entry] == 0
        assert entry >= batch.num_decodes


def test_memory_of_a_window_group_stays_small() -> None:
    s = Session(replace(CONFIG, chunked_prefill_size=16), MIXED, [100, 12])
    s.add(prompt(1, 100), max_tokens=100, ignore_eos=True)
    s.run()
    assert s.scheduler.stats()["retractions_total"] == 0
    s.check_drained()


@overlap_modes()
def test_abort_in_every_state(overlap: bool) -> None:
    s = session(overlap=overlap, max_running_requests=3, chunked_prefill_size=16)
    for i, length in enumerate((4, 4, 60, 4)):
        s.add(prompt(i, length), max_tokens=50, ignore_eos=True)
    for _ in range(3):
        s.step()
    assert s.scheduler.stats()["num_waiting"] == 1
    for request_id in ("2", "0", "3"):  # prefilling, decoding, waiting
        assert s.abort(request_id)
        s.check()
    assert not s.abort("2")
    assert not s.abort("unheard of")
    s.step(abort_launched="1")
    s.run()
    assert set(s.ended.values()) == {"abort"}
    s.check_drained()


def test_scoring_a_prompt_needs_all_its_logits_and_no_token() -> None:
    s = session(chunked_prefill_size=16)
    for _ in range(2):
        request = s.add(prompt(1, 40), max_tokens=0, prompt_logprobs=1)
        s.run()
        assert request.cached_tokens == 0
        assert (s.emitted[request.id], s.ended[request.id]) == ([], "length")
        assert s.scored[request.id] == set(range(40))
    assert not any(b.sampling for b in s.batches)
    s.check_drained()


def test_min_tokens_and_stop_ids() -> None:
    ids = prompt(3, 9)
    free = answer(Request("", ids, SamplingParams(max_tokens=30, ignore_eos=True)), 256)[0]
    stop = free[4]
    s = session()
    at_once = s.add(ids, max_tokens=30, ignore_eos=True, stop_token_ids=(stop,))
    later = s.add(ids, max_tokens=30, ignore_eos=True, stop_token_ids=(stop,), min_tokens=5)
    stops = {}
    while s.scheduler.has_work:
        batch = s.scheduler.schedule()
        if batch is not None:
            s.device.launch(batch)
        if batch is None or len(s.device.in_flight) > 1:
            done = s.device.complete()
            for update in s.scheduler.commit(done.batch, [token for (token,) in done.sampled]):
                if update.finish_reason == "stop":
                    stops[update.request.id] = update.stop_reason
    assert at_once.output_ids == free[: free.index(stop) + 1]
    assert len(later.output_ids) > 5
    assert stops[at_once.id] == stop


def test_what_can_never_be_served_is_refused_with_a_reason() -> None:
    s = session(pages=11)
    with pytest.raises(ContextLengthExceeded, match=r"what fits the KV cache is 40 tokens, but the prompt has 40"):
        s.add(prompt(1, 40))
    with pytest.raises(ContextLengthExceeded, match="the model's context is 8 tokens, but the prompt has 9"):
        session(context_length=8).add(prompt(1, 9))
    with pytest.raises(InvalidRequest, match="empty"):
        s.add([])
    request = s.add(prompt(1, 39), max_tokens=1000, ignore_eos=True)
    with pytest.raises(InvalidRequest, match="already"):
        s.scheduler.add(Request("0", [1], SamplingParams(max_tokens=1)))
    s.run()
    assert (len(s.emitted[request.id]), s.ended[request.id]) == (1, "length")
    with pytest.raises(InvalidSettings, match=r"cache group 'window' has 5 pages of 4 tokens"):
        session(MIXED, pages=6)
    with pytest.raises(InvalidSettings, match="chunked_prefill_size"):
        session(chunked_prefill_size=0)


def test_a_full_queue_refuses() -> None:
    s = session(max_queued=1, max_running_requests=2)
    for number in range(3):  # two that the next step can admit, and one that has to wait
        s.add(prompt(number, 4))
    with pytest.raises(Overloaded, match="3 requests are waiting"):
        s.add(prompt(3, 4))
    s.run()
    s.check_drained()


def test_queued_requests_are_dropped_in_constant_time() -> None:
    s = session(max_running_requests=2)
    for number in range(40_000):
        s.scheduler.add(Request(f"r{number}", [1, 2], SamplingParams(max_tokens=4)))
    began = time.perf_counter()
    ended = [s.scheduler.abort(f"r{number}") for number in range(1, 40_000)]
    assert time.perf_counter() - began < 5  # 0.05 s; a pass over the queue for each took half a minute
    assert all(update is not None and update.finish_reason == "abort" for update in ended)
    assert s.scheduler.request_ids() == ["r0"]
    assert s.scheduler.stats()["num_waiting"] == 1


def test_a_step_does_not_look_at_all_of_a_long_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    s = session(max_running_requests=8, chunked_prefill_size=512, pages=2000)
    shared = prompt(1, 200)
    for number in range(20_000):  # each could share what the first one is computing
        s.scheduler.add(Request(f"r{number}", shared, SamplingParams(max_tokens=1)))
    cache, looked_up = s.scheduler.memory.cache, []
    match = cache.match
    monkeypatch.setattr(cache, "match", lambda *key: looked_up.append(key) or match(*key))
    assert s.scheduler.schedule() is not None
    assert 100 < len(looked_up) < 1000


def test_retracted_requests_go_first_and_new_ones_by_arrival() -> None:
    queue = Waiting("lpm", session().scheduler.memory.cache)
    requests = [Request(str(i), [1], SamplingParams(max_tokens=1)) for i in range(5)]
    for order, request in enumerate(requests):
        request.order = order
    requests[1].retractions = requests[3].retractions = 1
    for i in (0, 3, 2, 1, 4):
        queue.add(requests[i])
    assert [r.id for r in queue.candidates()] == ["1", "3", "0", "2", "4"]
    queue.remove(requests[3])
    queue.remove(requests[0])
    assert ([r.id for r in queue.candidates()], len(queue)) == (["1", "2", "4"], 3)


def test_the_cache_is_flushed_only_when_idle() -> None:
    s = session()
    s.add(prompt(1, 10))
    assert not s.scheduler.flush_cache()
    s.run()
    assert s.scheduler.stats()["pages_cached"] > 0
    assert s.scheduler.flush_cache()
    assert s.scheduler.stats()["pages_cached"] == 0


def test_stats_count() -> None:
    s = session()
    s.add(prompt(1, 20), max_tokens=5, ignore_eos=True)
    s.run()
    s.add(prompt(1, 20), max_tokens=5, ignore_eos=True)
    s.run()
    stats = s.scheduler.stats()
    assert (stats["requests_total"], stats["prompt_tokens_total"], stats["generation_tokens_total"]) == (2, 40, 10)
    assert stats["cached_tokens_total"] == 16
    assert stats["pages_free"] + stats["pages_cached"] == stats["pages_total"]
    assert stats["steps_total"] == len(s.batches)


def test_steps_are_committed_in_order() -> None:
    s = session()
    s.add(prompt(1, 4), max_tokens=5, ignore_eos=True)
    first = s.scheduler.schedule()
    second = s.scheduler.schedule()
    assert first is not None
    assert second is not None
    with pytest.raises(AssertionError, match="order"):
        s.scheduler.commit(second, [1])
    with pytest.raises(AssertionError, match="commit before scheduling"):
        s.scheduler.schedule()
    with pytest.raises(AssertionError, match="2 runs of tokens for 1 entries"):
        s.scheduler.commit(first, [1, 2])


@overlap_modes()
def test_a_fault_ends_its_request_alone_and_nothing_of_it_is_found_again(overlap: bool) -> None:
    s = session(overlap=overlap)
    first, other = prompt(1, 30), prompt(2, 30)
    broken, well = s.add(first, max_tokens=20, ignore_eos=True), s.add(other, max_tokens=20, ignore_eos=True)
    for _ in range(6):
        s.step()
    s.faulty.add(broken.id)
    s.run()
    assert (s.ended[broken.id], s.ended[well.id]) == ("error", "length")
    assert 0 < len(s.emitted[broken.id]) < 20
    assert s.scheduler.stats()["faults_total"] == 1
    again, beside = s.add([*first, 1], max_tokens=2), s.add([*other, 1], max_tokens=2)
    s.run()
    assert (again.cached_tokens, beside.cached_tokens) == (0, 28)
    once_more = s.add([*first, 2], max_tokens=2)
    s.run()
    assert once_more.cached_tokens == 28, "what was computed since is trusted"
    s.check_drained()


def test_after_faults_of_many_kinds_everything_cached_is_distrusted() -> None:
    distrusted = Distrusted(4)
    bystander = Request("x", [9, 9, 9, 9, 9], SamplingParams(max_tokens=1), extra_key="adapter")
    assert distrusted.key(bystander) == "adapter"
    for i in range(MOST + 1):
        distrusted.add([Request(str(i), [i, i, i, i], SamplingParams(max_tokens=1))])
    renewed = distrusted.key(bystander)
    assert renewed != "adapter"
    bystander.extra_key = renewed
    assert distrusted.key(bystander) == renewed


def test_wrong_drafts_do_not_count_as_seen_by_a_window() -> None:
    """The host counts drafts in flight as positions; what the last right token sees is kept all the same."""
    config = SchedulerConfig(context_length=60, max_running_requests=2, drafts=4)
    session = Session(config, [Group("local", 3, 1)], [14], accepts=lambda drafts: 0)
    for _ in range(3):
        session.add([1, 2, 3, 4, 5], max_tokens=20, ignore_eos=True)
    session.run()
    session.check_drained()


def test_right_drafts_save_steps() -> None:
    """Of five tokens a step, to the last one that is asked for and to a stop token in the middle of a run."""
    config = SchedulerConfig(context_length=60, max_running_requests=2, drafts=4)
    session = Session(config, [Group("full")], [40], accepts=lambda drafts: drafts)
    session.add([1, 2, 3], max_tokens=26, ignore_eos=True)
    session.run()
    session.check_drained()
    assert len(session.batches) < 10
