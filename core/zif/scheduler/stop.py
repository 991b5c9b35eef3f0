"""Whether a token ends its request."""

from __future__ import annotations

from zif.messages import FinishReason
from zif.scheduler.request import Request


def accept(request: Request, token: int) -> tuple[FinishReason | None, int | None]:
    """Append a sampled ``token``; returns (finish reason, stop token id), both None while it goes on.

    An EOS or stop token ends the request only where ``min_tokens`` others came before it (the sampler masks
    it until then, too). An EOS leaves the stop token id None.
    """
    output = request.output_ids
    output.append(token)
    if token in request.stop_ids and len(output) > request.params.min_tokens:
        return "stop", token if token in request.stop_token_ids else None
    if len(output) >= request.max_new:
        return "length", None
    return None, None
