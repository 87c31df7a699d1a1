"""What a trace tells of a generation: OpenTelemetry's conventions for generative AI where they have a word, the
glossary's where they do not. Never a word of the prompt or the answer."""

from __future__ import annotations

from collections.abc import Sequence

from server.core.requests import GenerationRequest, ImageRequest, TextRequest
from server.core.tracing import Attribute
from server.engine.messages import FinishEvent, ImageEvent


def of_request(asked: Sequence[GenerationRequest], model: str) -> dict[str, Attribute]:
    first = asked[0]
    attributes: dict[str, Attribute] = {
        "gen_ai.provider.name": "shira",
        "gen_ai.request.model": model,
        "gen_ai.response.id": first.id,
        "gen_ai.request.choice.count": len(asked),
        "shira.blend.key": first.blend.key,
        "shira.fusion": first.blend.fusion.method,
        "shira.adapter.versions": [adapter.version for adapter in first.adapters],
        "shira.adapter.scales": [float(adapter.scale) for adapter in first.adapters],
        "shira.requested_mode": first.mode,
        "shira.tenant": first.tenant,
    }
    match first:
        case TextRequest():
            attributes |= {
                "gen_ai.operation.name": "text_completion",
                "gen_ai.output.type": "text",
                "gen_ai.request.max_tokens": first.max_new_tokens,
                "gen_ai.request.temperature": first.sampling.temperature,
                "gen_ai.usage.input_tokens": first.num_prompt_tokens,
            }
        case ImageRequest():
            attributes |= {
                "gen_ai.operation.name": "generate_content",
                "gen_ai.output.type": "image",
                "shira.image.height": first.height,
                "shira.image.width": first.width,
                "shira.image.steps": first.max_new_tokens,
            }
    return attributes


def of_answer(ends: Sequence[FinishEvent | ImageEvent]) -> dict[str, Attribute]:
    """Of all answers to a request; the receipt's times are those of the one that ended last."""
    receipt = ends[-1].receipt
    attributes: dict[str, Attribute] = {
        "gen_ai.response.finish_reasons": [end.finish_reason for end in ends],
        "shira.mode": "mixed" if any(end.receipt.mode == "mixed" for end in ends) else "fused",
        "shira.queue_ms": receipt.queue_ms,
        "shira.switch_ms": receipt.switch_ms,
        "shira.total_ms": receipt.total_ms,
    }
    texts = [end for end in ends if isinstance(end, FinishEvent)]
    if texts:
        attributes["gen_ai.usage.output_tokens"] = sum(end.usage.completion_tokens for end in texts)
    return attributes
