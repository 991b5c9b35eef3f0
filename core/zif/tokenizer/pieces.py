"""What bytes a token stands for.

Byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece (Llama 2, Gemma, Mistral, Phi-3) tokens each
stand for fixed bytes, whatever is around them, so a stream of them is decoded by joining bytes. The
one exception is SentencePiece's marker for a word's start, which is no space at the very beginning of
a text: :attr:`PieceTable.strip_leading`. Other decoders (WordPiece, CTC) have no such table.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORD_START = "\u2581"


def _byte_alphabet() -> dict[str, int]:
    """Printable stand-ins of the 256 bytes in byte-level BPE vocabularies (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + offset): byte for offset, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_alphabet()
_BYTE_FALLBACK = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}


class PieceTable:
    """Bytes of each token id, filled in as ids are met.

    ``strip_leading`` spaces are dropped where a text begins. :meth:`of` returns None for no table.
    """

    def __init__(self, tokenizer: Tokenizer, *, byte_level: bool, byte_fallback: bool, strip_leading: int) -> None:
        self.strip_leading = strip_leading
        self._tokenizer = tokenizer
        self._byte_level = byte_level
        self._byte_fallback = byte_fallback
        self._known: dict[int, bytes] = {
            token_id: token.content.encode() for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PieceTable | None:
        """Return the table of ``tokenizer``, or None if its decoder looks at more than one token at a time."""
        if tokenizer.decoder is None:
            return None
        steps = _steps(json.loads(tokenizer.decoder.__getstate__()))
        if [step["type"] for step in steps] == ["ByteLevel"]:
            return cls(tokenizer, byte_level=True, byte_fallback=False, strip_leading=0)
        word_start = byte_fallback = False
        strip_leading = 0
        for step in steps:
            match step:
                case {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}:
                    word_start = True
                case {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme}:
                    word_start = True
                    strip_leading = 0 if scheme == "never" else 1
                case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                    strip_leading = start
                case {"type": "ByteFallback"}:
                    byte_fallback = True
                case {"type": "Fuse"}:
                    pass
                case _:
                    return None
        if not word_start:
            return None
        return cls(tokenizer, byte_level=False, byte_fallback=byte_fallback, strip_leading=strip_leading)

    def __getitem__(self, token_id: int) -> bytes:
        """Return the bytes of ``token_id``; none for an id that the vocabulary does not have."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(token_id)
        return known

    def _spell(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            try:
                return bytes(_ALPHABET[character] for character in token)
            except KeyError:  # not made of the alphabet: stands for itself
                return token.encode()
        if self._byte_fallback and token in _BYTE_FALLBACK:
            return _BYTE_FALLBACK[token]
        return token.replace(_WORD_START, " ").encode()


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
