"""``/adapters``: upload, list, show, move, delete, download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from adapters_store.adapter import Version
from adapters_store.alias import NAME_PATTERN, HistoryEntry, history_entry
from adapters_store.format import write_adapter
from server.api.adapter_views import AdapterPage, AdapterPatch, AdapterView, Deleted, VersionsPage
from server.api.auth import AdminKey, Key
from server.api.deletion import free_versions
from server.api.dependencies import JsonOnly, ServicesDep, UntilAnswered
from server.api.errors import classify
from server.api.etags import IfMatch, set_etag
from server.api.json_bodies import StrictJsonRoute
from server.api.schemas import VersionText
from server.api.scratch import scratch_directory
from server.api.services import Services
from server.api.uploads import FILE_PARTS, TEXT_PARTS, receive_upload

router = APIRouter(prefix="/adapters", tags=["adapters"], route_class=StrictJsonRoute)

MAX_PAGE = 1000
Name = Annotated[str, InPath(pattern=f"^{NAME_PATTERN}$")]
ChosenVersion = Annotated[VersionText | None, Query()]

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {part: {"type": "string"} for part in TEXT_PARTS}
                    | {part: {"type": "string", "format": "binary"} for part in FILE_PARTS},
                }
            }
        },
    }
}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=AdapterView,
    responses={200: {"model": AdapterView, "description": "The alias knew this version already."}},
    openapi_extra=UPLOAD_BODY,
)
async def upload(
    request: Request, response: Response, services: ServicesDep, key: AdminKey, if_match: IfMatch
) -> AdapterView:
    """Stores an adapter and points its name at it: ``file`` (native, or diffusers' single file) or ``config`` with
    ``weights`` (the two files of a PEFT checkpoint). ``tags`` is a comma-separated list. The same bytes again: 200."""
    try:
        result = await receive_upload(request, services, tenant=key.tenant, if_match=if_match)
    except Exception as error:
        services.metrics.uploads.labels(classify(error).code).inc()
        raise
    services.metrics.uploads.labels("created" if result.created else "unchanged").inc()
    response.status_code = status.HTTP_201_CREATED if result.created else status.HTTP_200_OK
    set_etag(response, result.record)
    return AdapterView.of(result.record)


@router.get("")
async def list_adapters(
    services: ServicesDep,
    key: Key,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> AdapterPage:
    """By name, those behind ``after``."""
    list_records = services.store.list_records
    records = list(await services.workers.quick(list_records, key.tenant, after=after, limit=limit + 1))
    shown = [AdapterView.of(record) for record in records[:limit]]
    return AdapterPage(adapters=shown, next=shown[-1].name if len(records) > limit else None)


@router.get("/{name}")
async def show(name: Name, response: Response, services: ServicesDep, key: Key) -> AdapterView:
    record = await services.workers.quick(services.store.get_record, key.tenant, name)
    set_etag(response, record)
    return AdapterView.of(record)


@router.get("/{name}/versions")
async def versions(name: Name, services: ServicesDep, key: Key) -> VersionsPage:
    """Every version the name can be moved to."""
    return VersionsPage.of(await services.workers.quick(services.store.get_record, key.tenant, name))


@router.patch("/{name}", dependencies=[JsonOnly])
async def change(
    *, name: Name, patch: AdapterPatch, response: Response, services: ServicesDep, key: AdminKey, if_match: IfMatch
) -> AdapterView:
    """Points the name at one of its versions (a rollback), pins it to host memory, describes it."""
    record = await services.workers.quick(
        services.store.move,
        key.tenant,
        name,
        version=Version(patch.version) if patch.version else None,
        description=patch.description,
        tags=None if patch.tags is None else tuple(patch.tags),
        pinned=patch.pinned,
        if_match=if_match,
    )
    set_etag(response, record)
    return AdapterView.of(record)


@router.delete("/{name}")
async def delete(
    name: Name, services: ServicesDep, key: AdminKey, if_match: IfMatch, version: ChosenVersion = None
) -> Deleted:
    """Forgets the name, or one older version of it. Answers once nothing holds the memory; 409 when running requests
    hold it for too long: the name is gone all the same, and the memory follows when they end."""
    forgotten = await services.workers.quick(
        services.store.delete, key.tenant, name, version=Version(version) if version else None, if_match=if_match
    )
    return Deleted(name=name, versions=list(await free_versions(services, forgotten)))


@router.get(
    "/{name}/content",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def content(
    name: Name, services: ServicesDep, key: AdminKey, until_answered: UntilAnswered, version: ChosenVersion = None
) -> FileResponse:
    """The adapter as a native file, with the card it was uploaded with; the version is the ETag."""
    record = await services.workers.quick(services.store.get_record, key.tenant, name)
    chosen = history_entry(record, Version(version) if version else record.version)
    directory = await until_answered.enter_async_context(scratch_directory(services))
    path = directory / "adapter.safetensors"
    await services.workers.heavy(_write_file, services, chosen, path)
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=f"{name}.safetensors",
        headers={"ETag": f'"{chosen.version}"'},
    )


def _write_file(services: Services, entry: HistoryEntry, path: Path) -> None:
    write_adapter(services.store.export(entry.version), path, card=entry.card)
