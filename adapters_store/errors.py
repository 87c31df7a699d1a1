"""Every error of ``adapters_store``, one class per decision a caller can take.

::

    AdapterStoreError
    ├── AdapterRejected            the bytes are not a valid adapter (says which tensor, check, expected, got)
    │   ├── LimitExceeded          a named limit was passed; nothing past it was read
    │   └── BaseMismatch           a valid adapter, made for another base
    ├── BaseUnreadable             the base checkpoint cannot be described
    ├── AdapterNotFound            no such alias or version
    ├── AdapterUnavailable         the alias exists, its bytes are nowhere reachable now
    ├── CatalogConflict            compare-and-set lost: the record moved meanwhile
    ├── AdapterInUse               still held when the wait for it ended
    ├── BlobCorrupt                stored bytes do not match their digest
    ├── BlendRejected              the blend itself is not possible (limit, range of the dtype, fusion)
    ├── BudgetExceeded             does not fit the tier's byte budget, even with everything else evicted
    ├── NeverFits                  would not even if nobody held anything
    ├── StorageFull                the disk refused the write; nothing was left behind
    ├── DataDirLocked              another process owns the data directory
    ├── EmbeddedRedisUnavailable   no Redis-protocol server can be started on this machine
    └── TrainingRefused            options, text or model cannot make an adapter; nothing was written
"""

from __future__ import annotations


class AdapterStoreError(Exception):
    """Root of the tree. ``str(error)`` is fit to be shown to a client."""


class AdapterRejected(AdapterStoreError):
    """The bytes are not a valid adapter.

    ``tensor`` is the tensor or field at fault, ``check`` the short name of the check that failed
    (``"sorted"``, ``"finite"``, ``"shape"`` …), ``expected`` and ``got`` are short renderings.
    """

    def __init__(self, check: str, *, tensor: str | None, expected: str, got: str) -> None:
        self.check = check
        self.tensor = tensor
        self.expected = expected
        self.got = got
        where = f"{tensor}: " if tensor else ""
        super().__init__(f"{where}{check}: expected {expected}, got {got}")


class LimitExceeded(AdapterRejected):
    """A named limit was passed; nothing past it was read."""


class BaseMismatch(AdapterRejected):
    """A well-formed adapter that was made for another base model."""


class BaseUnreadable(AdapterStoreError):
    """The base checkpoint is not a folder of safetensors files that can be described."""


class AdapterNotFound(AdapterStoreError):
    def __init__(self, name: str, *, version: str | None = None) -> None:
        self.name = name
        self.version = version
        what = f"adapter {name!r}" if version is None else f"version {version} of adapter {name!r}"
        super().__init__(f"{what} does not exist")


class AdapterUnavailable(AdapterStoreError):
    """The alias exists but its bytes are on no tier that can be reached now."""

    def __init__(self, version: str, *, reason: str) -> None:
        self.version = version
        super().__init__(f"adapter {version} cannot be loaded now: {reason}")


class CatalogConflict(AdapterStoreError):
    def __init__(self, name: str, *, expected: str, got: str) -> None:
        self.name = name
        self.expected = expected
        self.got = got
        super().__init__(f"adapter {name!r} changed meanwhile: expected {expected}, it is at {got}")


class AdapterInUse(AdapterStoreError):
    def __init__(self, version: str, *, num_holders: int, waited_s: float) -> None:
        self.version = version
        self.num_holders = num_holders
        super().__init__(f"adapter {version} is still held by {num_holders} after {waited_s:.1f} s")


class BlobCorrupt(AdapterStoreError):
    """Bytes read back do not have the digest they are stored under."""

    def __init__(self, digest: str, *, where: str) -> None:
        self.digest = digest
        super().__init__(f"{where}: the bytes stored as {digest} do not match that digest")


class BlendRejected(AdapterStoreError):
    """The blend asked for cannot be made: the message says why."""


class BudgetExceeded(AdapterStoreError):
    def __init__(self, what: str, *, needed_bytes: int, budget_bytes: int, held_bytes: int) -> None:
        super().__init__(f"{what} needs {needed_bytes} bytes; the budget is {budget_bytes}, {held_bytes} are held")


class NeverFits(AdapterStoreError):
    """More bytes than the whole budget: waiting for others to let go is in vain."""

    def __init__(self, what: str, *, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(f"{what} needs {needed_bytes} bytes; the whole budget is {budget_bytes}")


class StorageFull(AdapterStoreError):
    """The disk refused a write; nothing of it was left behind."""


class DataDirLocked(AdapterStoreError):
    """Another process owns the data directory."""


class TrainingRefused(AdapterStoreError):
    """An option, the text or the model cannot make an adapter; nothing was written."""

    def __init__(self, field: str, *, expected: str, got: str) -> None:
        self.field = field
        self.expected = expected
        self.got = got
        super().__init__(f"{field}: expected {expected}, got {got}")


class EmbeddedRedisUnavailable(AdapterStoreError):
    """No Redis-protocol server can be started on this machine."""
