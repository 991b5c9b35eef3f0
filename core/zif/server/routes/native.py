"""SGLang's result objects, as they grow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from zif.frontend import Delta, ScoredToken, TokenScore
from zif.server.schemas.generate import GenerateRequest
from zif.server.stream import finite


class NativePrompt:
    """What the results of one prompt have in common. ``scores`` come once, and are made ready once."""

    def __init__(self, prompt_ids: Sequence[int], request: GenerateRequest) -> None:
        self.length = len(prompt_ids)
        self.cached_tokens = 0
        self.scores: dict[str, Any] = {}
        self._ids = prompt_ids
        self._request = request

    def add(self, news: Delta) -> None:
        """Take in what ``news`` says about the prompt."""
        self.cached_tokens = max(self.cached_tokens, news.cached_tokens)
        if news.prompt_logprobs is None or self.scores:
            return
        start = self._request.logprob_start_len or 0
        wanted, with_text = news.prompt_logprobs[start:], bool(self._request.return_text_in_logprobs)
        self.scores["input_token_logprobs"] = [
            [None, token_id, None] if token is None else _triple(token.chosen, with_text)
            for token, token_id in zip(wanted, self._ids[start:], strict=True)
        ]
        if self._request.top_logprobs_num:
            self.scores["input_top_logprobs"] = _tops(wanted, with_text)


class NativeResult:
    """The result of one choice. Adding to it costs what is added, however long it is."""

    def __init__(self, name: str, prompt: NativePrompt, request: GenerateRequest, started: float) -> None:
        self.finished = False
        self._name = name
        self._prompt = prompt
        self._request = request
        self._started = started
        self._finish_reason: dict[str, Any] | None = None
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._tokens: list[Any] = []
        self._tops: list[Any] = []
        self._reported = (0, 0, 0)  # texts, ids and scores that ``news`` has returned

    def add(self, news: Delta) -> None:
        """Append ``news``."""
        self._texts.append(news.text)
        self._ids += news.token_ids
        if news.logprobs:
            with_text = bool(self._request.return_text_in_logprobs)
            self._tokens += [_triple(token.chosen, with_text) for token in news.logprobs]
            self._tops += _tops(news.logprobs, with_text)
        if news.finish_reason is not None:
            self.finished = True
            self._finish_reason = _finish_reason(news, self._ids)

    def whole(self) -> dict[str, Any]:
        """Return all there is."""
        self._texts = ["".join(self._texts)]
        return self._object(self._texts[0], self._ids, 0, with_prompt=True)

    def news(self) -> dict[str, Any]:
        """Return what was added since the last call; the counts are those of the whole."""
        texts, ids, scores = self._reported
        self._reported = len(self._texts), len(self._ids), len(self._tokens)
        text = "".join(self._texts[texts:])
        return self._object(text, self._ids[ids:], scores, with_prompt=not texts)

    def _object(self, text: str, ids: list[int], first: int, *, with_prompt: bool) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "id": self._name,
            "finish_reason": self._finish_reason,
            "prompt_tokens": self._prompt.length,
            "completion_tokens": len(self._ids),
            "cached_tokens": self._prompt.cached_tokens,
            "e2e_latency": time.perf_counter() - self._started,
        }
        if self._request.return_logprob:
            meta["output_token_logprobs"] = self._tokens[first:]
            if self._request.top_logprobs_num:
                meta["output_top_logprobs"] = self._tops[first:]
            if with_prompt:
                meta |= self._prompt.scores
        return {"text": text, "output_ids": ids, "meta_info": meta}


class Allowance:
    """How often a stream may repeat all that it has sent: so often that it stays linear in its tokens.

    A token brings ``BYTES``, an event takes its own; one is sent when the one before could be paid once more. Up to
    a thousand tokens or so each has its event; later, and with many scores, events are further apart.
    """

    BYTES = 8192
    FIRST = 65_536

    def __init__(self) -> None:
        self._credit = self.FIRST
        self._price = 0

    def earn(self, tokens: int) -> bool:
        """Count ``tokens`` in; return whether an event can be sent now."""
        self._credit += tokens * self.BYTES
        return self._credit >= self._price

    def spend(self, size: int) -> None:
        """Count an event of ``size`` bytes."""
        self._credit -= size
        self._price = size


def _triple(token: TokenScore, with_text: bool) -> list[Any]:
    return [finite(token.logprob), token.token_id, token.text if with_text else None]


def _tops(tokens: Iterable[ScoredToken | None], with_text: bool) -> list[Any]:
    return [None if token is None else [_triple(other, with_text) for other in token.top] for token in tokens]


def _finish_reason(news: Delta, ids: Sequence[int]) -> dict[str, Any]:
    match news.finish_reason:
        case "stop":
            matched = news.stop_reason
            if matched is None and ids:
                matched = ids[-1]
            return {"type": "stop", "matched": matched}
        case "length":
            return {"type": "length", "length": len(ids)}
        case reason:
            return {"type": reason}
