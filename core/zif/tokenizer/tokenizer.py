"""The tokenizer of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zif.contract.errors import InvalidRequest
from zif.tokenizer.chat_template import ChatTemplate
from zif.tokenizer.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from zif.tokenizer.literal import Literal
from zif.tokenizer.panic import refused
from zif.tokenizer.pieces import PieceTable

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


@dataclass(frozen=True)
class Tokenizer:
    """Encodes, decodes and renders chats; safe to use from several threads.

    ``bos_token_id`` and ``end_token_id`` are set where every text has to begin or end with them, and the tokenizer's
    own post-processor may not see to that (``add_bos_token``, ``add_eos_token``); no text gets a second one.
    ``eos_token_ids`` end a generation.
    ``generation_defaults`` are the sampling settings that the checkpoint recommends, by the names
    of :class:`~zif.sampling.params.SamplingParams`, as they were found: nobody has checked them yet.
    """

    backend: Backend
    chat_template: ChatTemplate | None = None
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    end_token_id: int | None = None
    literal: bool = False
    """Text that spells a control token stays text, but for what the chat template writes."""
    generation_defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; a model's output layer may be padded beyond it."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out of text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def _pieces(self) -> PieceTable | None:
        return PieceTable.of(self.backend)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``, with BOS and the like where the model wants them.

        Raises :class:`InvalidRequest` for a string that is no Unicode text (a lone surrogate).
        """
        _check_unicode(text)
        with refused("read this text", "prompt"):
            ids = self._encoder.encode(text, add_special_tokens=add_special_tokens and not self.literal).ids
        return self._finished(ids, add_special_tokens)

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Return what :meth:`encode` returns for each text, and let other threads run meanwhile."""
        for text in texts:
            _check_unicode(text)
        with refused("read this text", "prompt"):
            found = self._encoder.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens and not self.literal
            )
        return [self._finished(one.ids, add_special_tokens) for one in found]

    def count(self, text: str) -> int:
        """Return how many ids ``text`` has, without special tokens around it; other threads run meanwhile."""
        _check_unicode(text)
        with refused("read this text", "prompt"):
            return len(self._encoder.encode_batch_fast([text], add_special_tokens=False)[0])

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token: no text of more than as many times its tokens can be written with them."""
        return max(map(len, self.backend.get_vocab(with_added_tokens=True)), default=1)

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Return a conversation as text to be encoded, by the chat template; ``options`` as it takes them."""
        assert self.chat_template is not None
        if not self.literal:
            return self.chat_template.render(messages, **options)
        hidden = self._literal.hidden()
        return hidden.reveal(self.chat_template.render(hidden.hide_messages(messages), **hidden.hide(options)))

    @cached_property
    def _literal(self) -> Literal:
        return Literal(self.backend)

    @property
    def _encoder(self) -> Backend:
        return self._literal.backend if self.literal else self.backend

    def _finished(self, ids: list[int], add_special_tokens: bool) -> list[int]:
        if self.literal:
            ids = self._literal.ids(ids)
            ids = [*self._literal.before, *ids, *self._literal.after] if add_special_tokens else ids
        return self._surrounded(ids) if add_special_tokens else ids

    def _surrounded(self, ids: list[int]) -> list[int]:
        if self.bos_token_id is not None and ids[:1] != [self.bos_token_id]:
            ids = [self.bos_token_id, *ids]
        if self.end_token_id is not None and ids[-1:] != [self.end_token_id]:
            ids = [*ids, self.end_token_id]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids`` taken as a whole: what a detokenizer gives out of them, piece by piece."""
        text = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return "".join([*map(text.push, ids), text.flush()])

    def detokenizer(self, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True) -> Detokenizer:
        """Return a detokenizer of what follows ``prompt_ids``."""
        hidden: frozenset[int] = self.special_ids if skip_special_tokens else frozenset()
        if self._pieces is not None:
            return ByteDetokenizer(self._pieces, prompt_ids, hidden)
        return WindowDetokenizer(self._decode_window, prompt_ids, hidden)

    def _decode_window(self, ids: Sequence[int]) -> str:
        with refused("write these ids", "tokens"):
            return self.backend.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """Return what the token stands for on its own, special tokens included; perhaps not whole UTF-8."""
        if self._pieces is not None:
            return self._pieces[token_id]
        return self._decode_window([token_id]).encode()

    def token_text(self, token_id: int) -> str:
        r"""Return the token as text; bytes that are no whole UTF-8 are spelled ``bytes:\xe2\x82``, as OpenAI does."""
        return spell(self.token_bytes(token_id))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"prompt is not valid Unicode text: {error.reason} at {error.start}") from None


def spell(data: bytes) -> str:
    r"""Return ``data`` as text, or if it is no whole UTF-8, as ``bytes:\xe2\x82``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
