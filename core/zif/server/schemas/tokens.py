"""``/tokenize``, ``/detokenize`` and ``/abort_request``."""

from __future__ import annotations

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from zif.server.schemas.chat import Conversation, Messages
from zif.server.schemas.common import Ids, RequestModel


class TokenizeRequest(Conversation):
    """Body of ``/tokenize``: a ``prompt``, or ``messages`` to be rendered by the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages = []  # noqa: RUF012
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> TokenizeRequest:
        if (self.prompt is None) == (not self.messages):
            raise PydanticCustomError("prompt", "give either prompt or messages", {"field": "prompt"})
        return self


class DetokenizeRequest(RequestModel):
    """Body of ``/detokenize``."""

    model: str | None = None
    tokens: Ids


class AbortRequest(RequestModel):
    """Body of ``/abort_request``: the id of a request (``rid`` or a response's ``id``), or all."""

    rid: str | None = None
    abort_all: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> AbortRequest:
        if (self.rid is None) == (not self.abort_all):
            raise PydanticCustomError("abort", "give either rid or abort_all: true", {"field": "rid"})
        return self
