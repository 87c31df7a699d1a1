"""The manifest: what an adapter is, in canonical JSON. Its SHA-256 is the adapter's version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapters_store.adapter import (
    Digest,
    DTypeName,
    Fingerprint,
    WeightTable,
    build_table,
)
from adapters_store.container import Limits
from adapters_store.errors import AdapterRejected

_WEIGHT_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    base: Fingerprint
    table: WeightTable
    index_set: Digest
    values: Digest
    values_dtype: DTypeName


def parse_manifest(text: bytes, limits: Limits) -> Manifest:
    """Checks form, names, shapes, counts and first blocks. Raises AdapterRejected or LimitExceeded.

    That the text is canonical is for the caller to check, against ``manifest_json`` of what was read."""
    try:
        form = _ManifestForm.model_validate_json(text)
    except ValidationError as error:
        _reject_form("manifest", error)
    for field, digest in (("base", form.base), ("index_set", form.index_set), ("values", form.values)):
        if not _DIGEST.fullmatch(digest):
            raise AdapterRejected(
                "digest", tensor=f"manifest.{field}", expected="sha256:<64 hex digits>", got=ascii(digest[:80])
            )
    return Manifest(
        base=Fingerprint(form.base),
        table=_table(form.weights, limits),
        index_set=Digest(form.index_set),
        values=Digest(form.values),
        values_dtype=form.values_dtype,
    )


def parse_table(text: bytes, limits: Limits) -> WeightTable:
    """The table of weights alone. Raises AdapterRejected or LimitExceeded."""
    try:
        return _table(_ROWS.validate_json(text), limits)
    except ValidationError as error:
        _reject_form("weights", error)


def check_weight_name(name: str, limits: Limits) -> None:
    """Dot-separated parts of ASCII letters, digits, ``_`` and ``-``. Raises AdapterRejected, LimitExceeded."""
    limits.check("name_bytes", len(name), tensor=ascii(name[:80]))
    if not _WEIGHT_NAME.fullmatch(name):
        raise AdapterRejected(
            "name", tensor=ascii(name[:80]), expected="dot-separated [A-Za-z0-9_-]+", got=ascii(name[:80])
        )


def check_table(table: WeightTable, limits: Limits) -> None:
    """Names ascending, shapes and counts possible, within the limits. Raises AdapterRejected, LimitExceeded."""
    limits.check("weights", len(table))
    if not table:
        raise AdapterRejected("weights", tensor="manifest", expected="at least one weight", got="none")
    before = ""
    for entry in table:
        check_weight_name(entry.name, limits)
        if entry.name <= before:
            raise AdapterRejected("order", tensor=entry.name, expected=f"a name after {before}", got=entry.name)
        before = entry.name
        if not entry.shape or min(entry.shape) < 1:
            raise AdapterRejected("shape", tensor=entry.name, expected="dimensions >= 1", got=str(list(entry.shape)))
        limits.check("dimension", entry.numel, tensor=entry.name)
        if not 1 <= entry.count <= entry.numel:
            raise AdapterRejected("count", tensor=entry.name, expected=f"1 to {entry.numel}", got=str(entry.count))
    limits.check("entries", sum(entry.count for entry in table))


_Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    shape: tuple[_Int64, ...]
    dtype: DTypeName
    first_block: _Int64
    count: _Int64


class _ManifestForm(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["shira.adapter.v1"]
    base: str
    weights: list[_Row]
    index_set: str
    values: str
    values_dtype: DTypeName


_ROWS = TypeAdapter(list[_Row])


def _table(rows: Sequence[_Row], limits: Limits) -> WeightTable:
    limits.check("weights", len(rows))
    for row in rows:  # before the dimensions are multiplied
        check_weight_name(row.name, limits)
        limits.check("rank", len(row.shape), tensor=row.name)
    table = build_table((row.name, row.shape, row.dtype, row.count) for row in rows)
    check_table(table, limits)
    for row, entry in zip(rows, table, strict=True):
        if row.first_block != entry.first_block:
            raise AdapterRejected(
                "first_block", tensor=entry.name, expected=str(entry.first_block), got=str(row.first_block)
            )
    return table


def _reject_form(what: str, error: ValidationError) -> NoReturn:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in (what, *first["loc"]))
    raise AdapterRejected(
        "form", tensor=where[:200], expected=first["msg"][:200], got=ascii(first["input"])[:80]
    ) from None
