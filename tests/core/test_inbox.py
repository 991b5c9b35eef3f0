"""An inbox hands on what came, in order; a late reader gets it in fewer pieces."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zif.contract.errors import EngineDead
from zif.messages import EngineOutput
from zif.process.inbox import LATE, Inbox


@given(st.lists(st.sampled_from(["tokens", "whole", "read"]), max_size=60))
def test_nothing_is_lost_or_swapped(events: list[str]) -> None:
    async def go() -> None:
        inbox, sent, read, waiting, joins = Inbox("r"), [], [], 0, False
        for number, event in enumerate(events):
            if event == "read":
                if waiting:
                    read += (await inbox.get()).token_ids
                    waiting -= 1
                continue
            sent.append(number)
            if event == "tokens":
                waiting += 0 if waiting >= LATE and joins else 1
                inbox.put_tokens([number])
                joins = True
            else:
                inbox.put(EngineOutput("r", [number], logprobs=[]))
                waiting, joins = waiting + 1, False
        for _ in range(waiting):
            read += (await inbox.get()).token_ids
        assert read == sent

    asyncio.run(go())


async def test_what_a_late_reader_finds_is_bounded() -> None:
    inbox = Inbox("r")
    for number in range(1000):
        inbox.put_tokens([number])
    pieces = [(await inbox.get()).token_ids for _ in range(LATE)]
    assert [token for piece in pieces for token in piece] == list(range(1000))


async def test_a_failure_comes_last() -> None:
    inbox = Inbox("r")
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_tokens([1])
    inbox.fail(EngineDead("gone"))
    assert (await reader).token_ids == [1]
    with pytest.raises(EngineDead, match="gone"):
        await inbox.get()
