"""Pages come back when the step that used them is over, once, and never before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zif.cache.allocator import PageAllocator


def pages(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def test_the_sink_is_never_handed_out() -> None:
    allocator = PageAllocator(5)
    taken = allocator.alloc(4)
    assert taken is not None
    assert sorted(taken.tolist()) == [1, 2, 3, 4]
    assert allocator.alloc(1) is None
    assert (allocator.capacity, allocator.num_free, allocator.num_used) == (4, 0, 4)


def test_what_does_not_fit_takes_nothing() -> None:
    allocator = PageAllocator(4)
    assert allocator.alloc(4) is None
    assert allocator.num_free == 3


def test_a_page_waits_for_its_step() -> None:
    allocator = PageAllocator(3)
    first = allocator.alloc(2)
    assert first is not None
    allocator.free(first[:1], after_step=3)
    allocator.free(first[1:], after_step=2)
    assert (allocator.num_pending, allocator.num_free) == (2, 0)
    allocator.retire(2)
    assert (allocator.num_pending, allocator.num_free) == (1, 1)
    allocator.retire(3)
    assert (allocator.num_pending, allocator.num_free) == (0, 2)


def test_a_page_of_a_step_long_over_is_free_at_once() -> None:
    allocator = PageAllocator(3)
    allocator.retire(7)
    allocator.free(allocator.alloc(1), after_step=7)  # type: ignore[arg-type]
    assert allocator.num_free == 2


@pytest.mark.parametrize("after_step", [-1, 5])
def test_double_free_is_an_error(after_step: int) -> None:
    allocator = PageAllocator(4)
    allocator.alloc(2)
    allocator.free(pages(1), after_step)
    with pytest.raises(AssertionError, match=r"not in use: \[1\]"):
        allocator.free(pages(1, 2), after_step)


def test_a_page_twice_in_one_call_is_an_error() -> None:
    allocator = PageAllocator(4)
    allocator.alloc(2)
    with pytest.raises(AssertionError, match="twice"):
        allocator.free(pages(1, 1), -1)


def test_the_sink_cannot_be_freed() -> None:
    with pytest.raises(AssertionError, match="sink"):
        PageAllocator(4).free(pages(0), -1)


def test_steps_retire_in_order() -> None:
    allocator = PageAllocator(2)
    allocator.retire(4)
    with pytest.raises(AssertionError, match="step 3 retired after step 4"):
        allocator.retire(3)


@given(st.data(), st.integers(2, 20))
def test_no_page_is_lost_or_in_two_hands(data: st.DataObject, num_pages: int) -> None:
    allocator = PageAllocator(num_pages)
    held: set[int] = set()
    waiting: dict[int, int] = {}
    retired = -1
    for _ in range(data.draw(st.integers(0, 30))):
        match data.draw(st.sampled_from(["alloc", "free", "retire"])):
            case "alloc":
                n = data.draw(st.integers(0, num_pages))
                taken = allocator.alloc(n)
                room = num_pages - 1 - len(held) - len(waiting)
                assert (taken is None) == (n > room)
                if taken is not None:
                    assert len(set(taken.tolist())) == n
                    assert not held & set(taken.tolist())
                    assert not waiting.keys() & set(taken.tolist())
                    held |= set(taken.tolist())
            case "free" if held:
                some = data.draw(st.lists(st.sampled_from(sorted(held)), unique=True))
                after = retired + data.draw(st.integers(0, 3))
                allocator.free(pages(*some), after)
                held -= set(some)
                if after > retired:
                    waiting |= dict.fromkeys(some, after)
            case "retire":
                retired += data.draw(st.integers(0, 2))
                allocator.retire(retired)
                waiting = {page: after for page, after in waiting.items() if after > retired}
            case _:
                pass
        allocator.check()
        assert allocator.num_used == len(held)
        assert allocator.num_pending == len(waiting)
