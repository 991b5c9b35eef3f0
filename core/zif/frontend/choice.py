"""One choice on its way from engine tokens to text."""

from __future__ import annotations

from zif.contract.errors import ZifError
from zif.frontend.output import Delta, ScoredToken, TokenScore
from zif.frontend.stop import StopMatcher, StopStrings
from zif.messages import EngineOutput, EngineRequest, TokenLogprob
from zif.tokenizer import Tokenizer


class ChoiceStream:
    """Turns the outputs of one engine request into deltas.

    ``request`` is what the engine is asked; with ``prompt_only`` nothing but its prompt's
    log-probabilities is wanted, and the token that an engine makes to get them is dropped.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: EngineRequest,
        *,
        index: int,
        prompt_index: int,
        stop: StopStrings | None,
        prompt_only: bool = False,
    ) -> None:
        params = request.params
        self.request = request
        self.index = index
        self.prompt_index = prompt_index
        self.prompt_only = prompt_only
        self._tokenizer = tokenizer
        self._text = tokenizer.detokenizer(request.prompt_ids, skip_special_tokens=params.skip_special_tokens)
        self._stop = StopMatcher(stop, include=params.include_stop_str_in_output) if stop else None
        self._min_tokens = params.min_tokens
        self._count = 0
        self._characters = 0
        hidden = set(params.stop_token_ids)
        if not params.ignore_eos:
            hidden.update(request.eos_token_ids)
        self._end_ids = frozenset() if params.include_stop_str_in_output else frozenset(hidden)

    def feed(self, output: EngineOutput) -> Delta:
        """Return the news in ``output``; a finish reason in it may be a stop string's, before the engine's."""
        if output.finish_reason == "error":
            raise ZifError(output.error or "the engine failed on this request")
        delta = Delta(self.index, self.prompt_index, cached_tokens=output.cached_tokens)
        if output.prompt_logprobs is not None:
            delta.prompt_logprobs = self._score_prompt(output.prompt_logprobs)
        if self.prompt_only:
            delta.finish_reason = "abort" if output.finish_reason == "abort" else output.finish_reason and "length"
            return delta
        ids = output.token_ids
        # The token that ends a sequence is reported, but is no part of its text.
        shown = len(ids)
        if ids and output.finish_reason == "stop" and ids[-1] in self._end_ids:
            shown -= 1
        scored: list[ScoredToken] | None = None if output.logprobs is None else []
        delta.logprobs = scored
        pieces: list[str] = []
        for position, token_id in enumerate(ids):
            if scored is not None and output.logprobs is not None:
                scored.append(self._score(output.logprobs[position], self._characters))
            piece = self._text.push(token_id) if position < shown else ""
            self._characters += len(piece)
            self._count += 1
            if self._stop is not None and self._count > self._min_tokens:
                piece, matched = self._stop.push(piece)
                if matched is not None:
                    pieces.append(piece)
                    delta.text = "".join(pieces)
                    delta.token_ids = ids[: position + 1]
                    delta.finish_reason, delta.stop_reason = "stop", matched
                    return delta
            pieces.append(piece)
        if output.finish_reason is not None:
            delta.finish_reason, delta.stop_reason = output.finish_reason, output.stop_reason
            if self._stop is not None:
                pieces.append(self._stop.flush())
            pieces.append(self._text.flush())
        delta.text = "".join(pieces)
        delta.token_ids = ids
        return delta

    def _score(self, entry: TokenLogprob, text_offset: int) -> ScoredToken:
        spell = self._tokenizer.token_bytes
        return ScoredToken(
            chosen=TokenScore(entry.token_id, spell(entry.token_id), entry.logprob),
            rank=entry.rank,
            text_offset=text_offset,
            top=tuple(TokenScore(token_id, spell(token_id), logprob) for token_id, logprob in entry.top),
        )

    def _score_prompt(self, entries: list[TokenLogprob | None]) -> list[ScoredToken | None]:
        skip = self.request.params.skip_special_tokens
        text = self._tokenizer.detokenizer(skip_special_tokens=skip)
        scored: list[ScoredToken | None] = []
        characters = 0
        for token_id, entry in zip(self.request.prompt_ids, entries, strict=True):
            scored.append(None if entry is None else self._score(entry, characters))
            characters += len(text.push(token_id))
        return scored
