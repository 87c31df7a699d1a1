"""What a receipt looks like as JSON."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel

from server.core.requests import Receipt


class AppliedView(BaseModel):
    name: str
    version: str
    scale: float


class ReceiptView(BaseModel):
    """What was really applied to produce the answer. ``mode`` is ``mixed`` if some step of it ran beside others."""

    base: str
    adapters: list[AppliedView]
    fusion: str
    blend_key: str
    mode: str
    switch_ms: float
    queue_ms: float
    total_ms: float

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        return cls(
            base=receipt.base,
            adapters=[AppliedView(name=one.name, version=one.version, scale=one.scale) for one in receipt.adapters],
            fusion=receipt.fusion,
            blend_key=receipt.blend_key,
            mode=receipt.mode,
            switch_ms=receipt.switch_ms,
            queue_ms=receipt.queue_ms,
            total_ms=receipt.total_ms,
        )
