"""Stop strings end a text at the same place, however the text is cut into pieces."""

from __future__ import annotations

import time

from hypothesis import example, given
from hypothesis import strategies as st

from zif.frontend.stop import StopMatcher

words = st.text("ab", min_size=1, max_size=5)


def plainly(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Cut where the first stop string is complete, the longest of several."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(st.lists(st.text("ab", max_size=6), max_size=6), st.lists(words, min_size=1, max_size=3), st.booleans())
@example(["bb", "ab"], ["b" * 3, "bab", "ab"], False)
@example(["b", "ba"], ["a", "ba"], False)
def test_pieces_make_no_difference(pieces: list[str], stops: list[str], include: bool) -> None:
    matcher = StopMatcher(stops, include=include)
    out, matched = "", None
    for piece in pieces:
        text, matched = matcher.push(piece)
        out += text
        if matched is not None:
            break
    out += matcher.flush()
    assert (out, matched) == plainly("".join(pieces), stops, include)


@given(st.lists(st.text("abc", max_size=6), max_size=6), st.lists(words, min_size=1, max_size=3))
def test_no_more_is_held_back_than_must_be(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    given_out = so_far = ""
    for piece in pieces:
        so_far += piece
        text, matched = matcher.push(piece)
        if matched is not None:
            return
        given_out += text
        beginnings = [stop[:length] for stop in stops for length in range(len(stop))]
        held = max(len(beginning) for beginning in beginnings if so_far.endswith(beginning))
        assert given_out == so_far[: len(so_far) - held]


@given(
    st.lists(st.tuples(st.text("ab", max_size=4), st.booleans()), max_size=8),
    st.lists(words, min_size=1, max_size=3),
    st.integers(0, 8),
    st.booleans(),
)
def test_hidden_text_is_read_but_not_given_out_and_early_ends_do_not_count(
    pieces: list[tuple[str, bool]], stops: list[str], free: int, include: bool
) -> None:
    matcher = StopMatcher(stops, include=include)
    out, matched = "", None
    for number, (piece, hidden) in enumerate(pieces):
        text, matched = matcher.push(piece, hidden=hidden, may_end=number >= free)
        out += text
        if matched is not None:
            break
    out += matcher.flush() if matched is None else ""

    whole = "".join(piece for piece, _ in pieces)
    seen = [not hidden for piece, hidden in pieces for _ in piece]
    floor = len("".join(piece for piece, _ in pieces[:free]))
    for end in range(floor + 1, len(whole) + 1):
        found = [stop for stop in stops if whole[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            cut = end if include else end - len(longest)
            assert (out, matched) == ("".join(c for c, s in zip(whole[:cut], seen, strict=False) if s), longest)
            return
    assert (out, matched) == ("".join(c for c, s in zip(whole, seen, strict=True) if s), None)


def test_long_strings_that_almost_match_cost_little() -> None:
    stops = ["a" * 1000 + letter for letter in "bcdefghijklmnopq"]
    matcher = StopMatcher(stops)
    begun = time.perf_counter()
    for _ in range(2000):
        matcher.push("aaaa")
    assert time.perf_counter() - begun < 5, "well under a millisecond a token, at sixteen strings"
