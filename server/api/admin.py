"""For operators: the audit of the base, and what is where."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from server.api.auth import AdminKey
from server.api.dependencies import ServicesDep

router = APIRouter(prefix="/admin", tags=["admin"])


class Audit(BaseModel):
    """``bytes`` is how much was hashed, ``mismatched`` the weights that differ."""

    ok: bool
    digest: str
    expected: str
    num_bytes: int = Field(serialization_alias="bytes")
    mismatched: list[str]


@router.post("/verify", response_model=Audit, responses={500: {"model": Audit}})
async def verify(services: ServicesDep, key: AdminKey) -> JSONResponse:
    """Hashes the loaded weights, displaced originals in their places, between steps. 500 when they changed
    (which the execution has counted)."""
    report = await services.engine.verify()
    audit = Audit(
        ok=report.ok,
        digest=report.digest,
        expected=report.expected,
        num_bytes=report.num_bytes,
        mismatched=list(report.mismatched),
    )
    return JSONResponse(audit.model_dump(by_alias=True), status_code=200 if report.ok else 500)


@router.get("/state")
async def state(services: ServicesDep, key: AdminKey) -> dict[str, Any]:
    """What is fused, staged and resident on which tier."""
    base = services.base
    return {
        "base": {
            "name": base.name,
            "fingerprint": base.fingerprint,
            "dtype": base.dtype,
            "device": base.device,
            "max_context_tokens": base.max_context_tokens,
            "pictures": None if base.pictures is None else asdict(base.pictures),
        },
        "engine": await services.engine.inspect(),
        "store": await services.workers.quick(services.store.describe),
    }
