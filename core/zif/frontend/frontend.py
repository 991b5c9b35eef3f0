"""Prompts to engine requests, engine outputs to text."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zif.contract.errors import EngineDead, InvalidRequest, ZifError
from zif.frontend.books import Books
from zif.frontend.choice import ChoiceStream
from zif.frontend.client import EngineClient
from zif.frontend.output import Completion, Delta, collect
from zif.frontend.texts import PIECE, SHORT, Texts
from zif.messages import EngineOutput, EngineRequest
from zif.sampling.params import OF_TOKEN_IDS, SamplingParams
from zif.sampling.stop import granted
from zif.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import TypeIs

logger = logging.getLogger(__name__)

# Conversations of more messages are rendered in a thread, and so are those with anything long in them.
_FEW_MESSAGES = 16

# Pieces of news that one stream hands on before others get their turn.
_DELTAS_AT_ONCE = 8

# Choices of one request that are begun, or given up, before others get their turn.
_CHOICES_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a frontend knows of the model that its engine runs.

    ``vocab_size`` is the number of ids that the model's embedding has rows for. ``names`` are those
    the model is served under, the first one its proper name. ``sampling_defaults`` are used where a
    client says nothing.
    """

    names: tuple[str, ...]
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Asked:
    """One prompt, and what is asked for it."""

    prompt_ids: list[int]
    params: SamplingParams


class Frontend:
    """Serves completions of text over an engine of tokens."""

    def __init__(self, tokenizer: Tokenizer, engine: EngineClient, model: ModelInfo) -> None:
        self.tokenizer = tokenizer
        self.engine = engine
        self.model = model
        self.max_running = 0
        """Sequences that the engine runs at once; known once it is started."""
        self.texts = Texts(tokenizer)
        self.books = Books()
        self._live: dict[str, list[str]] = {}
        self._aborted: set[str] = set()
        self._errands: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the engine, and take over the context length that its memory allows."""
        await self.engine.start()
        _ = self.tokenizer.longest_token  # walks the vocabulary: not during a request
        facts = await self.engine.stats()
        longest = facts.get("context_length", self.model.context_length)
        self.max_running = facts.get("max_running_requests", 0)
        self.model = replace(self.model, context_length=min(self.model.context_length, longest))

    # --- prompts ------------------------------------------------------------------------------

    async def encode(self, prompt: str | Sequence[int], *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a prompt; ids are passed through, and checked by :meth:`generate`."""
        return (await self.encode_all([prompt], add_special_tokens=add_special_tokens))[0]

    async def encode_all(
        self, prompts: Sequence[str | Sequence[int]], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Return the ids of each prompt, all of which the model has.

        Raises :class:`InvalidRequest` for an id that it does not have, and :class:`ContextLengthExceeded` for a text
        that cannot fit, before any is tokenized.
        """
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        length = self.model.context_length
        encoded = iter(await self.texts.encode(texts, length, add_special_tokens=add_special_tokens))
        ids = [next(encoded) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        looked_at = 0
        for one in ids:
            if len(one) <= length:  # else refused for its length, whatever the ids are
                self.check_ids(one, "prompt")
                looked_at += len(one)
            if looked_at > PIECE:
                looked_at = 0
                await asyncio.sleep(0)
        return ids

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of a conversation, written out by the model's chat template."""
        if self.tokenizer.chat_template is None:
            raise InvalidRequest(
                f"{self.model.names[0]} has no chat template: use plain completions, or start with --chat-template",
                "messages",
            )
        render = partial(
            self.tokenizer.render,
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )
        short = not (tools or documents or variables) and _is_short(messages)
        text = render() if short else await self.texts.work(render)
        # The template writes BOS and its like itself.
        return await self.encode(text, add_special_tokens=False)

    def check_ids(self, ids: Sequence[int], parameter: str) -> None:
        """Raise :class:`InvalidRequest` for an id that the model does not have."""
        size = self.model.vocab_size
        if ids and (min(ids) < 0 or max(ids) >= size):
            where, bad = next((i, t) for i, t in enumerate(ids) if not 0 <= t < size)
            raise InvalidRequest(
                f"{parameter}: token id {bad} at position {where} is out of range: the model has {size} ids", parameter
            )

    # --- completions --------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        request_id: str | None = None,
        cache_key: tuple[str, ...] = (),
        counted: bool = True,
        encoded: bool = False,
    ) -> AsyncGenerator[Delta, None]:
        """Return a stream of deltas for ``prompts``, ``params.n`` choices of each, mixed as they come.

        ``params`` are one for all, or one a prompt. A request is checked when this is called:
        :class:`InvalidRequest`. The stream raises :class:`~zif.contract.errors.Overloaded` before its
        first delta and :class:`EngineDead` at any time. Closing the stream aborts what still runs.
        ``request_id`` is a name for :meth:`abort`. Only requests of equal ``cache_key`` share cached prefixes.
        A request that is no client's, but a probe, is not ``counted``.
        ``encoded``: the ids come from :meth:`encode_all`, and are not checked once more.

        ``max_tokens`` is cut to what the context has room for after the prompt; with 0 the prompt is computed (and
        scored, if ``prompt_logprobs`` are asked for), but no token is made. Choice ``i`` of a request
        with a seed always draws the same tokens; choice 0 those of the same request with ``n`` = 1.
        """
        if request_id is not None and request_id in self._live:
            raise InvalidRequest(f"a request named {request_id!r} is running", "rid")
        name = request_id or uuid.uuid4().hex
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise InvalidRequest(f"{len(prompts)} prompts, but {len(each)} sampling params", "sampling_params")
        asked = [
            _Asked(prompt if isinstance(prompt, list) else list(prompt), own)
            for prompt, own in zip(prompts, each, strict=True)
        ]
        checked: SamplingParams | None = None
        for one in asked:
            if one.params is not checked:  # one object for all prompts, mostly
                self._check_params(one.params)
                checked = one.params
            one.params = self._resolve(one.prompt_ids, one.params)
            if not encoded:
                self.check_ids(one.prompt_ids, "prompt")
        if not asked:
            raise InvalidRequest("prompt must not be empty", "prompt")
        tag = f"{name}-{uuid.uuid4().hex[:8]}"
        ids = [f"{tag}-{index}" for index in range(sum(one.params.n for one in asked))]
        deltas = self._stream(name, ids, self._choices(ids, asked, cache_key))
        return self.books.kept([len(one.prompt_ids) for one in asked], len(ids), deltas) if counted else deltas

    async def complete(
        self, prompt: str | Sequence[int] | Sequence[Mapping[str, Any]], params: SamplingParams
    ) -> Completion:
        """Return the whole completion of a text, of token ids, or of a conversation (a list of messages)."""
        ids = await (self.encode_chat(prompt) if _is_chat(prompt) else self.encode(prompt))
        async with aclosing(self.generate([ids], params)) as deltas:
            return (await collect([ids], deltas))[0]

    async def abort(self, request_id: str | None = None) -> int:
        """End the requests of that name (None: all); return how many sequences were told to."""
        names = list(self._live) if request_id is None else [request_id]
        ids = [engine_id for name in names for engine_id in self._live.get(name, ())]
        self._aborted.update(ids)  # those that are not with the engine yet are not sent there
        if ids or request_id is None:
            await self.engine.abort(ids if request_id is not None else None)
        return len(ids)

    async def stats(self) -> dict[str, Any]:
        """Return the engine's counters and gauges, with tokens as clients count them (:class:`Books`).

        The engine's own counts of tokens have names that begin with ``engine_``.
        """
        stats = await self.engine.stats()
        totals = self.books.totals()
        return {**stats, **{f"engine_{name}": stats[name] for name in totals if name in stats}, **totals}

    @property
    def live(self) -> int:
        """Number of requests whose streams are open."""
        return len(self._live)

    # --- inside -------------------------------------------------------------------------------

    def _choices(
        self, ids: Sequence[str], asked: Sequence[_Asked], cache_key: tuple[str, ...]
    ) -> Iterator[ChoiceStream]:
        """Make the choices of each prompt, which are called ``ids``, one by one."""
        names = enumerate(ids)
        for prompt_index, one in enumerate(asked):
            for number in range(one.params.n):
                index, name = next(names)
                request = EngineRequest(
                    request_id=name,
                    prompt_ids=one.prompt_ids,
                    params=one.params.narrowed(n=1, seed=choice_seed(one.params.seed, number)),
                    eos_token_ids=self.model.eos_token_ids,
                    cache_key=cache_key,
                )
                yield ChoiceStream(self.tokenizer, request, index=index, prompt_index=prompt_index, first=number == 0)

    def _resolve(self, prompt_ids: list[int], params: SamplingParams) -> SamplingParams:
        """Return ``params`` as the engine is to have them."""
        model = self.model
        if not prompt_ids:
            raise InvalidRequest("prompt must not be empty", "prompt")
        return granted(params, len(prompt_ids), model.context_length)

    def _check_params(self, params: SamplingParams) -> None:
        size = self.model.vocab_size
        for parameter in OF_TOKEN_IDS:
            for token_id in getattr(params, parameter):
                if not 0 <= token_id < size:
                    raise InvalidRequest(
                        f"{parameter}: token id {token_id} is out of range: the model has {size} ids", parameter
                    )

    async def _stream(self, name: str, ids: list[str], choices: Iterator[ChoiceStream]) -> AsyncGenerator[Delta, None]:
        self._live[name] = ids
        source = self._run(next(choices)) if len(ids) == 1 else self._merge(choices, len(ids))
        count = 0
        try:
            async with aclosing(source) as deltas:
                async for delta in deltas:
                    yield delta
                    count += 1
                    if count % _DELTAS_AT_ONCE == 0:  # what always has something ready would never let others run
                        await asyncio.sleep(0)
        finally:
            self._live.pop(name, None)
            self._aborted.difference_update(ids)

    async def _merge(self, choices: Iterator[ChoiceStream], count: int) -> AsyncGenerator[Delta, None]:
        arrived: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()
        pumps: list[asyncio.Task[None]] = []

        async def pump(choice: ChoiceStream) -> None:
            try:
                async for delta in self._run(choice):
                    arrived.put_nowait(delta)
            except Exception as error:  # handed on: raised again in the stream
                arrived.put_nowait(error)
            else:
                arrived.put_nowait(None)

        async def start() -> None:
            try:
                for choice in choices:
                    pumps.append(asyncio.create_task(pump(choice)))
                    if len(pumps) % _CHOICES_AT_ONCE == 0:
                        await asyncio.sleep(0)
            except Exception as error:
                arrived.put_nowait(error)

        starter = asyncio.create_task(start())
        try:
            while count:
                news = await arrived.get()
                if news is None:
                    count -= 1
                elif isinstance(news, Exception):
                    raise news
                else:
                    yield news
        finally:
            starter.cancel()
            self._run_errand(_cancel([pump for pump in pumps if not pump.done()]))

    async def _run(self, choice: ChoiceStream) -> AsyncGenerator[Delta, None]:
        if choice.request.request_id in self._aborted:
            yield Delta(choice.index, choice.prompt_index, finish_reason="abort")
            return
        outputs = self.engine.submit(choice.request)
        over = False
        try:
            async for output in outputs:
                over = output.finish_reason is not None
                if output.prompt_logprobs is None:
                    delta = choice.feed(output)
                else:  # as long as the prompt
                    delta = await self.texts.work(partial(choice.feed, output))
                yield delta
                if delta.finish_reason is not None and not over:  # a stop string's doing
                    return
            if not over:
                raise EngineDead(f"the engine dropped request {choice.request.request_id} without a finish reason")
        except ZifError:
            over = True
            raise
        finally:
            if not over:
                self._run_errand(self._drop(choice.request.request_id, outputs))

    async def _drop(self, request_id: str, outputs: AsyncIterator[EngineOutput]) -> None:
        """Tell the engine that nobody listens any more."""
        await self.engine.abort([request_id])
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run something beside the caller, who may be on its way out with a cancellation that forbids awaiting."""
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, EngineDead):  # a dead engine has nothing to abort
            logger.error("aborting a request failed", exc_info=error)


def _is_chat(prompt: str | Sequence[int] | Sequence[Mapping[str, Any]]) -> TypeIs[Sequence[Mapping[str, Any]]]:
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _is_short(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a template writes ``messages`` in about a millisecond: they are few, and all they hold is short text."""
    if len(messages) > _FEW_MESSAGES:
        return False
    values = [value for message in messages for value in message.values() if value is not None]
    return all(isinstance(value, str) for value in values) and sum(map(len, values)) <= SHORT


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for number, task in enumerate(tasks, 1):
        task.cancel()
        if number % _CHOICES_AT_ONCE == 0:
            await asyncio.sleep(0)


def choice_seed(seed: int | None, index: int) -> int | None:
    """Return the seed of choice ``index``: ``seed`` itself for the first, then unrelated ones (SplitMix64).

    None stays: the engine seeds each sequence by itself, from ``--random-seed`` if that is set.
    """
    if index == 0 or seed is None:
        return seed
    mask = 2**64 - 1
    mixed = (seed + index * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1
