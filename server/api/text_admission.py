"""From the body of a text request to the frozen requests that the engine runs: text to tokens, limits."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

from server.api.admission import admit, check_at_most, nth_id
from server.api.schemas import SEEDS
from server.api.services import Codec, Services
from server.api.text_schemas import DEFAULT_NEW_TOKENS, TextBody
from server.core.errors import RequestRejected
from server.core.keys import ApiKey
from server.core.requests import Sampling, TextRequest

CHARS_PER_TOKEN = 32  # more than text has on average; what is longer is refused before it costs a tokenizer's second


async def admit_text(services: Services, key: ApiKey, body: TextBody, held: AsyncExitStack) -> tuple[TextRequest, ...]:
    """One request for each answer asked for. Raises RequestRejected, BlendRejected or AdapterNotFound.

    The versions stay held until ``held`` closes, so that a delete waits for the requests."""
    parameters = body.parameters
    check_at_most(services.config.max_queue, parameters.n, param="parameters.n")
    _check_num_chars(services, body)
    admitted = await admit(services, key, body, body.fusion.asked, held)
    prompt_tokens = await services.workers.tokenising(_encode, services, body)
    first = TextRequest(
        **admitted,
        prompt_tokens=prompt_tokens,
        sampling=Sampling(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            top_k=parameters.top_k,
            repetition_penalty=parameters.repetition_penalty,
            seed=parameters.seed,
            num_logprobs=parameters.logprobs,
        ),
        max_new_tokens=_max_new_tokens(services, len(prompt_tokens), parameters.max_new_tokens),
        stop=body.stops,
        ignore_eos=parameters.ignore_eos,
        mode=body.mode,
    )
    return first, *(_another(first, place) for place in range(1, parameters.n))


def _another(first: TextRequest, place: int) -> TextRequest:
    """The same request for a further answer, drawn with a seed of its own."""
    seed = first.sampling.seed
    sampling = replace(first.sampling, seed=None if seed is None else (seed + place) % SEEDS)
    return replace(first, id=nth_id(first.id, place), sampling=sampling)


def _check_num_chars(services: Services, body: TextBody) -> None:
    """Before the tokenizer sees it."""
    num_tokens = _max_prompt_tokens(services)
    limit = num_tokens * CHARS_PER_TOKEN
    got = len(body.prompt or "") + sum(len(message.content) for message in body.messages or ())
    if got > limit:
        field = "messages" if body.prompt is None else "prompt"
        message = f"at most {limit} characters ({CHARS_PER_TOKEN} for each of {num_tokens} tokens), got {got}"
        raise RequestRejected(f"{field}: {message}", param=field)


def _encode(services: Services, body: TextBody) -> tuple[int, ...]:
    codec = _codec(services)
    if body.prompt is not None:
        field, tokens = "prompt", codec.encode(body.prompt)
    else:
        messages = [{"role": message.role, "content": message.content} for message in body.messages or ()]
        field, tokens = "messages", codec.encode_chat(messages)
    limit = _max_prompt_tokens(services)
    if not 0 < len(tokens) <= limit:
        raise RequestRejected(f"{field}: between 1 and {limit} tokens, got {len(tokens)}", param=field)
    return tokens


def _max_prompt_tokens(services: Services) -> int:
    return min(services.config.max_prompt_tokens, _context_tokens(services) - 1)


def _max_new_tokens(services: Services, num_prompt_tokens: int, asked: int | None) -> int:
    limit, context = services.config.max_new_tokens, _context_tokens(services)
    room = context - num_prompt_tokens
    if asked is None:
        return min(DEFAULT_NEW_TOKENS, limit, room)
    param = "parameters.max_new_tokens"
    check_at_most(limit, asked, param=param)
    if asked > room:
        message = f"{param}: the context holds {context} tokens, the prompt takes {num_prompt_tokens}, got {asked}"
        raise RequestRejected(message, param=param)
    return asked


def _codec(services: Services) -> Codec:
    assert services.codec is not None, "every base that writes text has one"  # noqa: S101
    return services.codec


def _context_tokens(services: Services) -> int:
    assert services.base.max_context_tokens is not None, "every base that writes text has a context"  # noqa: S101
    return services.base.max_context_tokens
