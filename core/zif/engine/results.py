"""What a step drew, once it is read from the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.engine.logits import LogitsPlan
from zif.messages import TokenLogprob
from zif.scheduler.batch import Batch
from zif.scheduler.request import Request

HostArray = np.ndarray[Any, Any]


@dataclass(slots=True)
class StepResult:
    """What a step drew: a token of each of ``batch.sampling``, int32, or ``counts`` each where drafts were verified."""

    tokens: HostArray
    arrays: Mapping[str, HostArray]
    plan: LogitsPlan
    counts: HostArray | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, HostArray], plan: LogitsPlan) -> StepResult:
        """Of a step's outputs; ``arrays`` is empty where it had no logits."""
        if not arrays:
            return cls(np.zeros(0, np.int32), arrays, plan)
        if plan.runs is None:
            return cls(arrays["tokens"][plan.sampled], arrays, plan)
        counts = arrays["accepted"][: len(plan.runs)] + 1
        places = np.arange(int(counts.sum())) + np.repeat(plan.sampled - (np.cumsum(counts) - counts), counts)
        return cls(arrays["tokens"][places], arrays, plan, counts)

    def logprobs(self, index: int, count: int, top: int) -> list[TokenLogprob]:
        """Those of the first ``count`` tokens of the ``index``-th that samples, with ``top`` alternatives each."""
        first = int(self.plan.sampled[index])
        return [self._entry(at, int(self.arrays["tokens"][at]), top) for at in range(first, first + count)]

    def prompt_logprobs(self, batch: Batch) -> list[tuple[Request, int, list[TokenLogprob]]]:
        """Those of the prompt positions that the step scored: (request, first position, scores) each."""
        scored = []
        for entry, first, count in self.plan.scored:
            request = batch.requests[entry]
            top = request.params.prompt_logprobs or 0
            places = range(first, first + count)
            scores = [self._entry(at, int(self.plan.targets[at]), top) for at in places]
            scored.append((request, int(batch.starts[entry]) + 1, scores))
        return scored

    def faulty(self, batch: Batch) -> list[Request]:
        """Requests of which the step scored a position of the prompt whose logits are not sound."""
        tokens = self.arrays["tokens"] if self.plan.scored else np.zeros(0, np.int32)
        return [batch.requests[i] for i, first, count in self.plan.scored if (tokens[first : first + count] < 0).any()]

    def _entry(self, at: int, token: int, top: int) -> TokenLogprob:
        ids, values = self.arrays["top_ids"][at, :top].tolist(), self.arrays["top_logprobs"][at, :top].tolist()
        return TokenLogprob(
            token, float(self.arrays["logprob"][at]), int(self.arrays["rank"][at]), list(zip(ids, values, strict=True))
        )
