"""Between people's requests and an engine's tokens: prompts in, text out.

The engine sees token ids and one sequence a request; everything that makes of it completions of text
(tokenizing, ``n`` choices, incremental text, stop strings) happens here, once, for the HTTP server and
for :class:`zif.LLM` alike.
"""

from zif.frontend.client import EngineClient
from zif.frontend.frontend import Frontend, ModelInfo
from zif.frontend.output import Choice, Completion, Delta, ScoredToken, TokenScore

__all__ = ["Choice", "Completion", "Delta", "EngineClient", "Frontend", "ModelInfo", "ScoredToken", "TokenScore"]
