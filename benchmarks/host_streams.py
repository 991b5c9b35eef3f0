"""What streams cost the process that talks to clients: time of a step's tokens to text, and memory of a stream.

    python benchmarks/host_streams.py [--streams 256 1024 4096] [--steps 50]

No engine and no HTTP: news of one more token for each stream goes through the client of an engine, its inboxes and the
frontend's detokenisers to a reader each. ``step_ms`` is a step's news where readers keep up; ``flood_ms`` is the same
where news comes faster than it is read, so that readers get several tokens at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from zif import bundled
from zif.engine.wire import Add, News
from zif.frontend.frontend import Frontend, ModelInfo
from zif.messages import EngineOutput
from zif.process.client import Client
from zif.sampling.params import SamplingParams
from zif.tokenizer.loading import load_tokenizer


class Nobody(Client):
    """An engine that notes who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def _launch(self) -> None: ...
    def _post(self, command: Any) -> None:
        if isinstance(command, Add):
            self.asked.append(command.request.request_id)

    def _alive(self) -> bool:
        return False

    def _end(self, patience: float) -> None: ...


def resident() -> int:
    """Bytes of memory that the process has at most had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def measure(streams: int, steps: int) -> dict[str, float]:
    client, tokenizer = Nobody(), load_tokenizer(str(bundled.path()))
    names = ("model",)
    model = ModelInfo(names=names, context_length=4096, vocab_size=tokenizer.vocab_size, eos_token_ids=(0,))
    frontend = Frontend(tokenizer, client, model)
    read = 0

    async def reader() -> None:
        nonlocal read
        async for delta in frontend.generate([[1, 2, 3]], SamplingParams(max_tokens=4000)):
            read += len(delta.token_ids)

    before = resident()
    tasks = [asyncio.create_task(reader()) for _ in range(streams)]
    while len(client.asked) < streams:
        await asyncio.sleep(0)
    numbers = np.arange(streams)
    firsts = [EngineOutput(name, [40], number=number) for number, name in enumerate(client.asked)]
    client._deliver(News(others=firsts))
    expected = streams
    rng, times = np.random.default_rng(0), []

    async def deliver(count: int) -> float:
        nonlocal expected
        begin = time.perf_counter()
        for _ in range(count):
            client._deliver(News(numbers, rng.integers(30, 90, streams).astype(np.int32)))
        expected += count * streams
        while read < expected:
            await asyncio.sleep(0)
        return (time.perf_counter() - begin) / count * 1e3

    await deliver(1)
    memory = (resident() - before) / streams / 1024
    times = [await deliver(1) for _ in range(steps)]
    flood = await deliver(steps)
    client._deliver(News(others=[EngineOutput(name, finish_reason="length") for name in client.asked]))
    await asyncio.gather(*tasks)
    return {
        "streams": streams,
        "step_ms": round(statistics.median(times), 2),
        "flood_ms": round(flood, 2),
        "kib_a_stream": round(memory, 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args(argv)
    for streams in args.streams:
        print(json.dumps(asyncio.run(measure(streams, args.steps))), flush=True)


if __name__ == "__main__":
    main()
