"""``/v1/chat/completions``, and how a conversation is written in ``/tokenize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, model_validator
from pydantic_core import PydanticCustomError

from zif.contract.errors import InvalidRequest
from zif.sampling.params import MAX_LOGPROBS, SamplingParams
from zif.server.schemas.common import Objects, RequestModel, SamplingRequest
from zif.server.schemas.fields import Place


def _check_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for position, message in enumerate(messages):
        problem = None
        if not isinstance(message.get("role"), str):
            problem = "needs a role, a string"
        elif not isinstance(message.get("content"), str | list | None):
            problem = "has content that is neither a string nor a list of parts"
        if problem:
            raise PydanticCustomError(
                "message",
                "messages[{position}] {problem}",
                {"field": "messages", "position": position, "problem": problem},
            )
    return messages


# What a template gets by these names comes from the request's own fields.
_TEMPLATE_PARAMETERS = frozenset(
    {"messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"}
)

Messages = Annotated[Objects, AfterValidator(_check_messages)]


class Conversation(RequestModel):
    """A conversation, and how the chat template is to render it."""

    places: ClassVar[tuple[Place, ...]] = ("conversation",)

    messages: Messages
    tools: Objects | None = None
    documents: Objects | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_template_kwargs(self) -> Conversation:
        for name in sorted(_TEMPLATE_PARAMETERS & (self.chat_template_kwargs or {}).keys()):
            raise PydanticCustomError(
                "conflict",
                "chat_template_kwargs: {name} is a parameter of the request: give it beside messages",
                {"field": "chat_template_kwargs", "name": name},
            )
        return self

    def template_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of :meth:`zif.frontend.Frontend.encode_chat`."""
        add = self.add_generation_prompt
        return {
            "tools": self.tools,
            "documents": self.documents,
            "add_generation_prompt": not self.continue_final_message if add is None else add,
            "continue_final_message": bool(self.continue_final_message),
            "variables": self.chat_template_kwargs,
        }


class ChatRequest(Conversation, SamplingRequest):
    """Body of ``/v1/chat/completions``."""

    places: ClassVar[tuple[Place, ...]] = ("chat", "conversation")

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatRequest:
        if self.tool_choice not in (None, "none", "auto"):
            raise PydanticCustomError(
                "unsupported", "tool_choice: a call cannot be enforced yet; use none", {"field": "tool_choice"}
            )
        if self.tools and self.tool_choice != "none":
            raise PydanticCustomError(
                "unsupported",
                "tools: calls are not parsed yet and would come back as text; send tool_choice: none, or no tools",
                {"field": "tools"},
            )
        if self.top_logprobs is not None and not self.logprobs and self.top_logprobs != 0:
            raise PydanticCustomError("conflict", "top_logprobs needs logprobs: true", {"field": "top_logprobs"})
        return self

    def params(self, defaults: Mapping[str, float]) -> SamplingParams:
        """Return the sampling parameters of this request."""
        decided: dict[str, Any] = {}
        if self.max_completion_tokens is not None:
            decided["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            decided["logprobs"] = self.top_logprobs or 0
            if not 0 <= decided["logprobs"] <= MAX_LOGPROBS:
                raise InvalidRequest(
                    f"top_logprobs must be in [0, {MAX_LOGPROBS}], not {self.top_logprobs}", "top_logprobs"
                )
        return self.sampling(defaults, **decided)

    def template_arguments(self) -> dict[str, Any]:
        """As of :class:`Conversation`; with ``tool_choice: none`` the model does not see the tools."""
        arguments = super().template_arguments()
        if self.tool_choice == "none":
            arguments["tools"] = None
        return arguments
