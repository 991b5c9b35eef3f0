"""One rule ends a sequence, whether its tokens come one by one or several at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zif.contract.errors import ContextLengthExceeded
from zif.sampling.params import SamplingParams
from zif.sampling.stop import StopRule, granted

EOS = 7


def test_what_ends_a_sequence() -> None:
    rule = StopRule.of(SamplingParams(stop_token_ids=(3,), min_tokens=1, max_tokens=4), (EOS,))
    assert rule.cut(0, []) == (0, None, None)
    assert rule.cut(0, [1, 2]) == (2, None, None)
    assert rule.cut(0, [3, 1]) == (2, None, None), "an end before min_tokens is a token like any other"
    assert rule.cut(1, [3, 1]) == (1, "stop", 3)
    assert rule.cut(1, [2, EOS, 3]) == (2, "stop", None)
    assert rule.cut(2, [1, 1, 1]) == (2, "length", None)
    assert rule.cut(2, [1, EOS]) == (2, "stop", None), "an end that is also the last one is an end"
    ignoring = StopRule.of(SamplingParams(ignore_eos=True, max_tokens=2), (EOS,))
    assert ignoring.cut(0, [EOS]) == (1, None, None)
    assert StopRule.of(SamplingParams(max_tokens=0), ()).cut(0, []) == (0, "length", None)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 6), st.integers(1, 12), st.data())
def test_runs_of_tokens_make_no_difference(tokens: list[int], least: int, most: int, data: st.DataObject) -> None:
    params = SamplingParams(stop_token_ids=(3,), min_tokens=min(least, most), max_tokens=most)
    rule = StopRule.of(params, (EOS,))

    def end(sizes: list[int]) -> tuple[int, str | None, int | None]:
        made, rest = 0, tokens
        for size in sizes:
            kept, reason, stop = rule.cut(made, rest[:size])
            made, rest = made + kept, rest[size:]
            if reason is not None:
                return made, reason, stop
        return made, None, None

    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(tokens), max_size=len(tokens)))
    assert end(sizes) == end([1] * len(tokens))
    for made, token in enumerate(tokens):
        may_end = token in rule.ends or made + 1 >= rule.max_tokens
        assert may_end or rule.cut(made, [token]) == (1, None, None)


def test_what_a_context_leaves_is_granted() -> None:
    open_ended = SamplingParams(min_tokens=9)
    assert granted(open_ended, 60, 64) == SamplingParams(max_tokens=4, min_tokens=4)
    fits = SamplingParams(max_tokens=4)
    assert granted(fits, 60, 64) is fits
    assert granted(SamplingParams(max_tokens=0), 64, 64).max_tokens == 0
    for params, length in ((fits, 64), (SamplingParams(max_tokens=0), 65)):
        with pytest.raises(ContextLengthExceeded, match=f"maximum context length is 64 tokens, but .* has {length}"):
            granted(params, length, 64)
