"""API keys: which secrets open the server, for which role and tenant. Only hashes are kept, and none is printed.

``SHIRA_API_KEYS`` holds ``secret:role[:tenant]``, separated by commas. A keys file is TOML::

    [[keys]]
    sha256 = "<64 hex digits: the SHA-256 of the secret>"
    role = "generate"        # or "admin", which may do everything
    tenant = "default"       # optional
    weight = 2.0             # optional, 1 by default: this key's share of a busy server against other keys
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Role = Literal["generate", "admin"]
TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
DEFAULT_TENANT = "default"
MAX_WEIGHT = 1000.0

_UNFIT = re.compile(r"[\s\x00-\x1f\x7f]")  # in a header it is cut off, or refused before anything of ours sees it


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """``digest`` is the SHA-256 of the secret; not in ``repr``, because a short secret can be guessed from it."""

    digest: bytes = field(repr=False)
    role: Role
    tenant: str = DEFAULT_TENANT
    weight: float = 1.0

    @property
    def client(self) -> str:
        """Tells this key from others where service is shared out."""
        return f"key-{self.digest.hex()[:12]}" if self.digest else "anonymous"

    def may(self, role: Role) -> bool:
        return self.role in ("admin", role)


def find_key(keys: Iterable[ApiKey], secret: str) -> ApiKey | None:
    """Compares with every key in constant time, whether or not an earlier one matched."""
    digest = hash_secret(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def hash_secret(secret: str) -> bytes:
    """Of its bytes as UTF-8; bytes that are not UTF-8 are surrogates in the string, as in the environment's."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Reads the form of ``SHIRA_API_KEYS``. Raises ValueError with a message that holds no secret."""
    keys = []
    for number, item in enumerate(text.split(","), start=1):
        secret, *rest = item.strip().split(":")
        if not secret or not 1 <= len(rest) <= 2 or not all(rest):
            raise ValueError(f"entry {number} is not of the form secret:role[:tenant]")
        if _UNFIT.search(secret):
            raise ValueError(f"entry {number}: expected a secret without white space and control characters, got some")
        tenant = rest[1] if len(rest) == 2 else DEFAULT_TENANT
        keys.append(_key(hash_secret(secret), rest[0], tenant, number))
    return _distinct(keys)


def read_keys_file(path: Path) -> tuple[ApiKey, ...]:
    """Raises ValueError saying what is wrong with the file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read the keys file {path}: {error}") from error
    entries = document.get("keys")
    if set(document) != {"keys"} or not isinstance(entries, list) or not entries:
        raise ValueError(f"the keys file {path} must hold [[keys]] tables and nothing else")
    return _distinct([_entry(entry, number) for number, entry in enumerate(entries, start=1)])


def _entry(entry: object, number: int) -> ApiKey:
    if not isinstance(entry, dict) or not {"sha256", "role"} <= set(entry) <= {"sha256", "role", "tenant", "weight"}:
        raise ValueError(f"entry {number} must have sha256 and role, may have tenant and weight, and nothing else")
    try:
        digest = bytes.fromhex(entry["sha256"])
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"entry {number}: sha256 must be 64 hex digits")
    if digest == hash_secret(""):
        raise ValueError(f"entry {number}: expected the sha256 of a secret, got that of an empty one")
    weight = _weight(entry.get("weight", 1.0), number)
    return _key(digest, entry["role"], entry.get("tenant", DEFAULT_TENANT), number, weight=weight)


def _weight(value: object, number: int) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_WEIGHT:
        return float(value)
    raise ValueError(f"entry {number}: the weight must be a number above 0 and at most {MAX_WEIGHT:g}, got {value!r}")


def _key(digest: bytes, role: object, tenant: object, number: int, *, weight: float = 1.0) -> ApiKey:
    for known in get_args(Role):
        if role == known and isinstance(tenant, str) and re.fullmatch(TENANT_PATTERN, tenant):
            return ApiKey(digest=digest, role=known, tenant=tenant, weight=weight)
    raise ValueError(f"entry {number}: the role must be generate or admin, the tenant match {TENANT_PATTERN}")


def _distinct(keys: list[ApiKey]) -> tuple[ApiKey, ...]:
    if len({key.digest for key in keys}) != len(keys):
        raise ValueError("the same secret appears twice")
    return tuple(keys)
