"""Stop strings end a text at the same place, however the text is cut into pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from zif.frontend.stop import StopMatcher, StopStrings

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
    matcher = StopMatcher(StopStrings(stops), include=include)
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
    matcher = StopMatcher(StopStrings(stops))
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
