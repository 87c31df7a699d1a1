"""Turns a validated body into the frozen request that the engine runs: names to versions, text to tokens, limits."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from dataclasses import replace

from adapters_store.adapter import Version
from adapters_store.blend import Blend, BlendMember, Fusion
from server.api.schemas import DEFAULT_NEW_TOKENS, SEEDS, AdapterRef, GenerateBody
from server.api.services import Services
from server.core.errors import RequestRejected
from server.core.keys import ApiKey
from server.core.requests import AppliedAdapter, GenerationRequest, RequestId, Sampling, TextRequest

CHARS_PER_TOKEN = 32  # more than text has on average; what is longer is refused before it costs a tokenizer's second


async def admit(
    services: Services, key: ApiKey, body: GenerateBody, held: AsyncExitStack
) -> tuple[GenerationRequest, ...]:
    """One request for each answer asked for. Raises RequestRejected, BlendRejected or AdapterNotFound.

    The versions stay held until ``held`` closes, so that a delete waits for the requests."""
    arrived_s = services.now()
    deadline_ms = _deadline_ms(services, body)
    _check_num_answers(services, body)
    _check_num_chars(services, body)
    adapters = tuple([await _hold(services, key.tenant, ref, held) for ref in body.adapter_refs])
    blend = Blend(
        members=tuple(BlendMember(version=adapter.version, scale=adapter.scale) for adapter in adapters),
        fusion=Fusion(method=body.fusion.method, density=body.fusion.density),
    )
    prompt_tokens = await services.workers.tokenising(_encode, services, body)
    parameters = body.parameters
    first = TextRequest(
        id=RequestId(f"gen-{uuid.uuid4().hex}"),
        tenant=key.tenant,
        client=key.client,
        weight=key.weight,
        prompt_tokens=prompt_tokens,
        blend=blend,
        adapters=adapters,
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
        arrived_s=arrived_s,
        deadline_s=arrived_s + deadline_ms / 1e3,
    )
    return first, *(_another(first, place) for place in range(1, parameters.n))


def _another(first: GenerationRequest, place: int) -> GenerationRequest:
    """The same request for a further answer, drawn with a seed of its own."""
    seed = first.sampling.seed
    sampling = replace(first.sampling, seed=None if seed is None else (seed + place) % SEEDS)
    return replace(first, id=RequestId(f"{first.id}-{place}"), sampling=sampling)


def _deadline_ms(services: Services, body: GenerateBody) -> int:
    limit = services.config.max_deadline_ms
    if body.deadline_ms is None:
        return services.config.default_deadline_ms
    if body.deadline_ms > limit:
        raise RequestRejected(f"deadline_ms: at most {limit}, got {body.deadline_ms}", param="deadline_ms")
    return body.deadline_ms


def _check_num_answers(services: Services, body: GenerateBody) -> None:
    limit, asked = services.config.max_queue, body.parameters.n
    if asked > limit:
        raise RequestRejected(f"parameters.n: at most {limit}, got {asked}", param="parameters.n")


def _check_num_chars(services: Services, body: GenerateBody) -> None:
    """Before the tokenizer sees it."""
    num_tokens = _max_prompt_tokens(services)
    limit = num_tokens * CHARS_PER_TOKEN
    got = len(body.prompt or "") + sum(len(message.content) for message in body.messages or ())
    if got > limit:
        field = "messages" if body.prompt is None else "prompt"
        message = f"at most {limit} characters ({CHARS_PER_TOKEN} for each of {num_tokens} tokens), got {got}"
        raise RequestRejected(f"{field}: {message}", param=field)


async def _hold(services: Services, tenant: str, ref: AdapterRef, held: AsyncExitStack) -> AppliedAdapter:
    version = await services.workers.quick(_resolve_and_hold, services, tenant, ref)
    held.push_async_callback(services.workers.quick, services.store.unhold, version)
    return AppliedAdapter(name=ref.name, version=version, scale=ref.scale)


def _resolve_and_hold(services: Services, tenant: str, ref: AdapterRef) -> Version:
    """Looks the version up again once it is held: a delete in between has not seen the hold and did not wait."""
    store = services.store
    version = store.resolve(tenant, ref.name, Version(ref.version) if ref.version else None)
    store.hold(version)
    try:
        return store.resolve(tenant, ref.name, version)
    except BaseException:
        store.unhold(version)
        raise


def _encode(services: Services, body: GenerateBody) -> tuple[int, ...]:
    if body.prompt is not None:
        field, tokens = "prompt", services.codec.encode(body.prompt)
    else:
        messages = [{"role": message.role, "content": message.content} for message in body.messages or ()]
        field, tokens = "messages", services.codec.encode_chat(messages)
    limit = _max_prompt_tokens(services)
    if not 0 < len(tokens) <= limit:
        raise RequestRejected(f"{field}: between 1 and {limit} tokens, got {len(tokens)}", param=field)
    return tokens


def _max_prompt_tokens(services: Services) -> int:
    return min(services.config.max_prompt_tokens, services.base.max_context_tokens - 1)


def _max_new_tokens(services: Services, num_prompt_tokens: int, asked: int | None) -> int:
    limit = services.config.max_new_tokens
    room = services.base.max_context_tokens - num_prompt_tokens
    if asked is None:
        return min(DEFAULT_NEW_TOKENS, limit, room)
    param = "parameters.max_new_tokens"
    if asked > limit:
        raise RequestRejected(f"{param}: at most {limit}, got {asked}", param=param)
    if asked > room:
        context = services.base.max_context_tokens
        message = f"{param}: the context holds {context} tokens, the prompt takes {num_prompt_tokens}, got {asked}"
        raise RequestRejected(message, param=param)
    return asked
