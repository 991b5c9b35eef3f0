"""``POST /tokenize`` and ``/detokenize``, in vLLM's shape."""

from __future__ import annotations

from fastapi import Response

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
        spelled = await frontend.texts.each(frontend.tokenizer.token_text, ids) if request.return_token_strs else None
        return json_response(
            {"count": len(ids), "max_model_len": frontend.model.context_length, "tokens": ids, "token_strs": spelled}
        )

    @router.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> Response:
        """Return the text of ids, special tokens included."""
        service.model_name(request.model)
        frontend.texts.check_count(request.tokens, frontend.model.context_length)
        frontend.check_ids(request.tokens, "tokens")
        return json_response({"prompt": await frontend.texts.decode(request.tokens, skip_special_tokens=False)})

    return router
