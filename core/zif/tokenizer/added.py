"""Tokens that ``tokenizer.json`` does not tell of, but the files beside it do.

As transformers has it: ``added_tokens_decoder`` of ``tokenizer_config.json``, or else ``added_tokens.json``, define
tokens of their own, and tokens with a name (``eos_token``) are special.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zif.contract.errors import WeightsError

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def special_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, str]:
    """Return ``bos_token``, ``eos_token`` and their like; an entry is text, or an object that holds it."""
    tokens: dict[str, str] = {}
    for source in (special_map, config):
        for name, value in source.items():
            content = _content(value)
            if name.endswith("_token") and content is not None:
                tokens[name] = content
    return tokens


def add_tokens(
    backend: Backend, config: Mapping[str, Any], special_map: Mapping[str, Any], added: Mapping[str, Any]
) -> None:
    """Add to ``backend`` the tokens that it does not know yet; ``added`` is what ``added_tokens.json`` holds.

    Raises :class:`WeightsError` for a token whose id is not the one that it would get: ids have to go on from those of
    ``tokenizer.json`` without a gap.
    """
    special = set(special_tokens(config, special_map).values())
    for source in (special_map, config):
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = source.get(name) or ()
            values = listed.values() if isinstance(listed, Mapping) else listed
            special.update(content for value in values if (content := _content(value)) is not None)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token_id, token in sorted(_declared(config, special, added).items()):
        if token.content in known:
            continue
        backend.add_tokens([token])
        known.add(token.content)
        got = backend.token_to_id(token.content)
        if got != token_id:
            raise WeightsError(
                f"the tokenizer's files give {token.content!r} the id {token_id}, but after those of "
                f"tokenizer.json it would be {got}: save the tokenizer again with transformers"
            )
    backend.add_special_tokens([text for text in sorted(special - known) if backend.token_to_id(text) is not None])


def _declared(config: Mapping[str, Any], special: set[str], added: Mapping[str, Any]) -> dict[int, AddedToken]:
    from tokenizers import AddedToken

    decoder = config.get("added_tokens_decoder")
    try:
        if isinstance(decoder, Mapping):
            return {
                int(token_id): AddedToken(str(entry["content"]), **{k: bool(entry[k]) for k in _FLAGS if k in entry})
                for token_id, entry in decoder.items()
            }
        return {
            int(token_id): AddedToken(text, normalized=text not in special, special=text in special)
            for text, token_id in added.items()
        }
    except (TypeError, ValueError, KeyError) as error:
        raise WeightsError(
            f"added_tokens_decoder of tokenizer_config.json, or added_tokens.json, cannot be read: {error!r}"
        ) from error


def _content(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None
