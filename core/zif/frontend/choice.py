"""One choice on its way from engine tokens to text."""

from __future__ import annotations

from zif.frontend.output import Delta, ScoredToken, TokenScore, within
from zif.frontend.stop import StopMatcher
from zif.messages import EngineOutput, EngineRequest, TokenLogprob
from zif.sampling.stop import StopRule
from zif.tokenizer import Tokenizer


class ChoiceStream:
    """Turns the outputs of one engine request, ``request``, into deltas.

    ``first``: it is the first choice of its prompt. The others find in the prefix cache what that one has computed,
    so it alone says how many of the prompt's tokens were there before.
    """

    def __init__(
        self, tokenizer: Tokenizer, request: EngineRequest, *, index: int, prompt_index: int, first: bool = True
    ) -> None:
        params = request.params
        self.request = request
        self.index = index
        self.prompt_index = prompt_index
        self._first = first
        self._tokenizer = tokenizer
        self._text = tokenizer.detokenizer(request.prompt_ids, skip_special_tokens=params.skip_special_tokens)
        self._hidden = tokenizer.special_ids if params.skip_special_tokens else frozenset()
        self._stop = StopMatcher(params.stop, include=params.include_stop_str_in_output) if params.stop else None
        self._rule = StopRule.of(params, request.eos_token_ids)
        self._count = 0
        self._characters = 0
        self._given = 0

    def feed(self, output: EngineOutput) -> Delta:
        """Return the news in ``output``; a finish reason in it may be a stop string's, before the engine's."""
        if output.finish_reason == "error":
            raise output.exception
        delta = Delta(self.index, self.prompt_index, cached_tokens=output.cached_tokens if self._first else 0)
        if output.prompt_logprobs is not None:
            delta.prompt_logprobs = self._score_prompt(output.prompt_logprobs)
        ids = output.token_ids
        scored: list[ScoredToken] | None = None if output.logprobs is None else []
        delta.logprobs = scored
        if scored is None and self._stop is None and output.finish_reason is None:  # nothing looks at single tokens
            self._count += len(ids)
            delta.text, delta.token_ids = self._text.push_all(ids), ids
            self._characters += len(delta.text)
            self._given += len(delta.text)
            return delta
        pieces: list[str] = []
        for position, token_id in enumerate(ids):
            if scored is not None and output.logprobs is not None:
                scored.append(self._score(output.logprobs[position], self._characters))
            self._count += 1
            last = output.finish_reason == "stop" and position == len(ids) - 1
            piece, matched = ("", None) if last and self._is_unseen_end(token_id) else self._show(token_id)
            pieces.append(piece)
            if matched is not None:
                delta.finish_reason, delta.stop_reason = "stop", matched
                ids = ids[: position + 1]
                break
        else:
            if output.finish_reason is not None:
                delta.finish_reason, delta.stop_reason = output.finish_reason, output.stop_reason
                piece, matched = self._match(self._text.flush())
                pieces.append(piece)
                if matched is not None:
                    delta.finish_reason, delta.stop_reason = "stop", matched
                elif self._stop is not None:
                    pieces.append(self._stop.flush())
        delta.text = "".join(pieces)
        delta.token_ids = ids
        self._given += len(delta.text)
        if scored and delta.finish_reason is not None:
            delta.logprobs = within(scored, self._given)
        return delta

    def _is_unseen_end(self, token_id: int) -> bool:
        """Whether this is a token that ended the sequence: it is reported, but is no part of the text."""
        return token_id in self._rule.ends and not self.request.params.include_stop_str_in_output

    def _show(self, token_id: int) -> tuple[str, str | None]:
        """Return the text that can be given out now that ``token_id`` is there, and the stop string that ends it."""
        piece = self._text.push(token_id)
        self._characters += len(piece)
        if self._stop is not None and token_id in self._hidden:
            spelled = self._tokenizer.token_bytes(token_id).decode(errors="replace")
            return self._stop.push(spelled, hidden=True, may_end=self._count > self._rule.min_tokens)
        return self._match(piece)

    def _match(self, piece: str) -> tuple[str, str | None]:
        if self._stop is None:
            return piece, None
        return self._stop.push(piece, may_end=self._count > self._rule.min_tokens)

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
