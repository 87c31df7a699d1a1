"""``POST /adapters``: a body becomes files, the files a checked adapter, the adapter an alias's new version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from fastapi import Request

from adapters_store.alias import NAME_PATTERN
from adapters_store.format import ParsedUpload
from adapters_store.peft_format import read_peft, read_single_file
from adapters_store.store import PutResult
from server.api.multipart import Form, read_form
from server.api.scratch import scratch_directory
from server.api.services import BaseInfo, Services
from server.api.tracing import trace_of
from server.core.errors import RequestRejected
from server.core.tracing import Phase, RequestTrace, phase

TEXT_PARTS = ("name", "description", "tags")
FILE_PARTS = ("file", "config", "weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """``tags`` and ``description`` None: what the alias has stays."""

    name: str
    description: str | None
    tags: tuple[str, ...] | None
    files: dict[str, Path]


async def receive_upload(request: Request, services: Services, *, tenant: str, if_match: str | None) -> PutResult:
    """Raises RequestRejected, UnsupportedMediaType, AdapterRejected, CatalogConflict, StorageFull, ClientDisconnect.

    Nothing of the body is left on disk outside the store, however it ends."""
    async with scratch_directory(services) as directory:
        trace = trace_of(request)
        with phase(trace, "receive"):
            form = await read_form(request, services.workers, directory, texts=TEXT_PARTS, files=FILE_PARTS)
        upload = check_parts(form, services.base)
        return await services.workers.heavy(_store, services, upload, tenant, if_match, trace)


def check_parts(form: Form, base: BaseInfo) -> Upload:
    """Raises RequestRejected naming the part that is missing or wrong."""
    name = _one_text(form, "name")
    if name is None:
        raise RequestRejected("the part name is missing", param="name")
    check_free_name(name, base)
    if form.files.keys() not in ({"file"}, {"config", "weights"}):
        got = ", ".join(sorted(form.files)) or "neither"
        raise RequestRejected(f"expected either the part file or the parts config and weights, got {got}", param="file")
    tags = [tag.strip() for text in form.texts.get("tags", []) for tag in text.split(",") if tag.strip()]
    return Upload(
        name=name,
        description=_one_text(form, "description"),
        tags=tuple(tags) if "tags" in form.texts else None,
        files=form.files,
    )


def check_free_name(name: str, base: BaseInfo) -> None:
    """A name that an adapter may have."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise RequestRejected(f"name: expected {NAME_PATTERN}, got {name[:140]!r}", param="name")
    if name.casefold() == base.name.casefold():
        raise RequestRejected(f"name: {base.name} is the base model's name and reserved", param="name")


def _one_text(form: Form, part: str) -> str | None:
    texts = form.texts.get(part, [])
    if len(texts) > 1:
        raise RequestRejected(f"the part {part} is given twice", param=part)
    return texts[0] if texts else None


def _store(services: Services, upload: Upload, tenant: str, if_match: str | None, trace: RequestTrace) -> PutResult:
    with phase(trace, "validate"):
        parsed = _read(upload, services.base)
    trace.describe({"shira.adapter.versions": [parsed.adapter.version]})
    started_s = monotonic()
    result = services.store.put(
        parsed,
        tenant=tenant,
        name=upload.name,
        description=upload.description,
        tags=upload.tags,
        if_match=if_match,
    )
    written_s = started_s + result.write_s
    trace.add(Phase(name="write", started_s=started_s, ended_s=written_s))
    trace.add(Phase(name="publish", started_s=written_s, ended_s=monotonic()))
    return result


def _read(upload: Upload, base: BaseInfo) -> ParsedUpload:
    if "file" in upload.files:
        return read_single_file(upload.files["file"], base=base.description)
    return read_peft(upload.files["config"], upload.files["weights"], base=base.description)
