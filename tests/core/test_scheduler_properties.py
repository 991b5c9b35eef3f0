"""No page is leaked or shared wrongly, and every answer is right, whatever arrives, ends and runs out when."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.simulated_device import VOCAB, Group, Session
from zif.cache.groups import least_pages, unit_of
from zif.contract.errors import InvalidRequest
from zif.scheduler.config import SchedulerConfig

SIZES = st.sampled_from([(1,), (2,), (16,), (4, 1), (2, 8), (1, 4), (6, 4), (2, 2, 4)])
"""Tokens of a page, of the groups in turn."""
WINDOWS = st.sampled_from([(None,), (None, 3), (None, 9), (5,), (4, 11), (None, None)])


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    windows = draw(WINDOWS)
    sizes = draw(SIZES)
    groups = [Group(str(g), w, sizes[g % len(sizes)]) for g, w in enumerate(windows)]
    config = SchedulerConfig(
        context_length=draw(st.integers(8, 80)),
        max_running_requests=draw(st.integers(1, 6)),
        chunked_prefill_size=draw(st.integers(1, 48)),
        overlap=draw(st.booleans()),
        radix_cache=draw(st.booleans()),
        policy=draw(st.sampled_from(["lpm", "fcfs"])),
        conservativeness=draw(st.sampled_from([0.0, 1.0])),
        drafts=draw(st.sampled_from([0, 0, 1, 2, 5])),
    )
    tokens = draw(st.integers(8, 160))
    spare = draw(st.sampled_from([0, 4]))  # a window group may have the least that there must be
    num_pages = [
        1 + -(-tokens // group.page_size)
        if group.window is None
        else 1
        + least_pages(group, unit_of(groups), group.window)
        + (tokens // spare // group.page_size if spare else 0)
        for group in groups
    ]
    rng, likely = random.Random(draw(st.integers(0, 99))), draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))

    def accepts(drafts: int) -> int:
        return next((count for count in range(drafts) if rng.random() >= likely), drafts)

    def masked() -> bool:
        return rng.random() < likely

    return Session(config, groups, num_pages, accepts, masked)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    """Some prefix of one of two sequences that part in the middle, then tokens of its own: much is shared."""
    other = draw(st.booleans())
    base = [1 + (i * i + (other and i > 20)) % (VOCAB - 1) for i in range(60)]
    return base[: draw(st.integers(0, 60))] + draw(st.lists(st.integers(1, 3), max_size=3))


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    max_tokens = draw(st.sampled_from([0, 1, 2, 9, 30, 10**9]))
    return {
        "max_tokens": max_tokens,
        "min_tokens": min(max_tokens, draw(st.sampled_from([0, 0, 4]))),
        "ignore_eos": draw(st.booleans()),
        "stop_token_ids": draw(st.sampled_from([(), (), (3,)])),
        "prompt_logprobs": draw(st.sampled_from([None, None, None, 0])),
        "masks": draw(st.sampled_from([None, None, object()])),
    }


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, steps, aborts and flushes in any order; the session checks every step."""

    @initialize(session=sessions())
    def start(self, session: Session) -> None:
        self.session = session

    @rule(prompt=prompts(), params=settings(), copies=st.integers(1, 3))
    def add(self, prompt: list[int], params: dict[str, Any], copies: int) -> None:
        for _ in range(copies):
            try:
                self.session.add(prompt, **params)
            except InvalidRequest:
                assert not 0 < len(prompt) < self.session.scheduler.max_length

    @precondition(lambda self: self.session.requests)
    @rule(data=st.data(), params=settings())
    def add_next_turn(self, data: st.DataObject, params: dict[str, Any]) -> None:
        before = data.draw(st.sampled_from(sorted(self.session.requests.values(), key=lambda r: r.order)))
        tokens = before.prompt_ids + before.output_ids + [1, 2]
        if len(tokens) < self.session.scheduler.max_length:
            self.session.add(tokens, **params)

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.session.step()

    @precondition(lambda self: self.session.requests)
    @rule(data=st.data(), launched=st.booleans())
    def abort(self, data: st.DataObject, launched: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.session.requests)))
        if launched:
            self.session.step(abort_launched=request_id)
        else:
            self.session.abort(request_id)
            self.session.check()

    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        if self.session.scheduler.has_work and (ids := self.session.scheduler.request_ids()):
            self.session.faulty.add(data.draw(st.sampled_from(ids)))

    @rule()
    def flush(self) -> None:
        assert self.session.scheduler.flush_cache() == (not self.session.scheduler.has_work)

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.session.run()
            self.session.check_drained()


TestAnyOrder = AnyOrder.TestCase


@given(st.data())
def test_answers_do_not_depend_on_how_they_are_scheduled(data: st.DataObject) -> None:
    """The session holds every answer against what the request alone must give, for any settings."""
    requests = data.draw(st.lists(st.tuples(prompts(), settings()), min_size=1, max_size=6))
    session = data.draw(sessions())
    for prompt, params in requests:
        if 0 < len(prompt) < session.scheduler.max_length:
            session.add(prompt, **params)
    session.run()
    session.check_drained()
    assert "abort" not in session.ended.values()
