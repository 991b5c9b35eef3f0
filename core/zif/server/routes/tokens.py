"""``POST /tokenize`` and ``/detokenize``, in vLLM's shape."""

from __future__ import annotations

from fastapi import Response

from zif.contract.errors import InvalidRequest
from zif.server.body import JsonRouter
from zif.server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from zif.server.service import Service
from zif.server.stream import json_response


def tokens_router(service: Service) -> JsonRouter:
    """Return the tokenizer's endpoints of ``service``."""
    router = JsonRouter(tags=["tokens"])
    frontend = service.frontend

    @router.post("/tokenize")
    async def tokenize(request: TokenizeRequest) -> Response:
        """Return the ids of a text, or of a conversation."""
        service.model_name(request.model)
        if request.prompt is not None:
            special = request.add_special_tokens is not False
            ids = await frontend.encode(request.prompt, add_special_tokens=special)
        else:
            ids = await frontend.encode_chat(request.messages, **request.template_arguments())
        spelled = [frontend.tokenizer.token_text(i) for i in ids] if request.return_token_strs else None
        return json_response(
            {"count": len(ids), "max_model_len": frontend.model.context_length, "tokens": ids, "token_strs": spelled}
        )

    @router.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> Response:
        """Return the text of ids, special tokens included."""
        service.model_name(request.model)
        for position, token_id in enumerate(request.tokens):
            if not 0 <= token_id < frontend.model.vocab_size:
                raise InvalidRequest(
                    f"token id {token_id} at position {position} is out of range: the model has "
                    f"{frontend.model.vocab_size} ids",
                    "tokens",
                )
        return json_response({"prompt": frontend.tokenizer.decode(request.tokens, skip_special_tokens=False)})

    return router
