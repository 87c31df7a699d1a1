"""What a picture request is answered, as JSON. What is None is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, Field

from server.api.receipt_view import ReceiptView
from server.core.requests import FinishReason, ImageUsage


class ImageUsageView(BaseModel):
    """``num_steps``: the denoising steps that ran, of all pictures together."""

    num_steps: int
    num_images: int

    @classmethod
    def of(cls, usages: Sequence[ImageUsage]) -> Self:
        return cls(num_steps=sum(usage.num_steps for usage in usages), num_images=len(usages))


class PreviewView(BaseModel):
    b64: str
    media_type: Literal["image/png"] = "image/png"


class ImageView(PreviewView):
    seed: int = Field(description="Asked for with this seed, it is drawn again.")
    receipt: ReceiptView | None = Field(default=None, description="Its own, where there are several pictures.")


class ImageAnswer(BaseModel):
    """``receipt`` is that of the first picture."""

    id: str
    images: list[ImageView]
    finish_reason: FinishReason
    usage: ImageUsageView
    receipt: ReceiptView
