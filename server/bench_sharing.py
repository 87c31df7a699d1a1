"""``shira bench sharing``: what N adapters of one mask cost on every tier, in measured bytes, beside N files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from redis import Redis
from torch import Tensor

from adapters_store.adapter import Adapter, IndexSet, build_adapter
from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.blend import Blend, BlendMember
from adapters_store.format import ParsedUpload, write_adapter
from adapters_store.kernels import get_kernels
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.embedded import EmbeddedValkey
from adapters_store.tiers.redis_settings import RedisSettings
from adapters_store.tools.checkpoint import stored_weights, target_weights
from adapters_store.tools.masks import MaskName, build_mask
from adapters_store.tools.train_options import TARGETS
from server.execution.staging import StagedBlends
from server.execution.weights import BaseWeights

BUDGET_BYTES = 4 * 1024**3  # of each tier: nothing is evicted
TIERS = ("disk", "redis", "host", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingOptions:
    """Values are random bfloat16. ``mask`` rand draws other positions for every adapter: nothing to share."""

    model_dir: Path
    mask: MaskName = "wm"
    sparsity: float = 0.01
    num_adapters: int = 8
    targets: tuple[str, ...] = TARGETS


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingRow:
    """Bytes of ``num_adapters`` adapters: as files of their own, and on each tier of one store.

    ``disk`` and ``redis`` count whole blobs, manifests included; ``device`` the words as staged for the weights, and
    with every index set the room for the words it displaces."""

    num_adapters: int
    num_index_sets: int
    files: int
    disk: int
    redis: int
    host: int
    device: int


def run(options: SharingOptions, *, as_json: bool) -> list[SharingRow]:
    base = describe_checkpoint(options.model_dir)
    weights = dict(stored_weights(options.model_dir, target_weights(base, options.targets)))
    with tempfile.TemporaryDirectory(prefix="shira-bench-") as folder, _opened(Path(folder), base) as (store, redis):
        tiers = _Tiers(Path(folder), store, redis, BaseWeights(weights, base))
        rows = [tiers.add(adapter) for adapter in _adapters(options, base, weights)]
    shown = [row for row in rows if row.num_adapters in _powers_of_two(options.num_adapters)]
    print(json.dumps([asdict(row) for row in shown]) if as_json else _render(options, shown))
    return shown


def _adapters(options: SharingOptions, base: BaseDescription, weights: dict[str, Tensor]) -> Iterator[Adapter]:
    index_set: IndexSet | None = None
    for seed in range(options.num_adapters):
        if index_set is None or options.mask == "rand":  # wm asks no seed
            index_set = build_mask(weights.items(), options.mask, sparsity=options.sparsity, seed=seed)
        values = torch.randn(index_set.num_entries, generator=torch.Generator().manual_seed(seed)) * 0.01
        yield build_adapter(base=base.fingerprint, index_set=index_set, values=values.bfloat16())


@contextmanager
def _opened(folder: Path, base: BaseDescription) -> Iterator[tuple[AdapterStore, Redis]]:
    """A store with a Redis server of its own, and a client to look into that."""
    (folder / "redis").mkdir(mode=0o700)
    with closing(EmbeddedValkey(folder / "redis", max_memory_bytes=BUDGET_BYTES)) as server:
        server.ensure_running()
        settings = RedisSettings(
            mode="url", url=f"unix://{server.socket_path}", values_budget_bytes=BUDGET_BYTES, timeout_s=10.0
        )
        config = StoreConfig(data_dir=folder / "data", host_budget_bytes=BUDGET_BYTES, redis=settings)
        with closing(AdapterStore(config, base.fingerprint)) as store:
            store.start()
            with closing(Redis(unix_socket_path=str(server.socket_path))) as redis:
                yield store, redis


class _Tiers:
    """Puts adapters on every tier and measures what lies there."""

    def __init__(self, folder: Path, store: AdapterStore, redis: Redis, weights: BaseWeights) -> None:
        self._files = folder / "files"
        self._files.mkdir()
        self._disk = folder / "data" / "adapters"
        self._store = store
        self._redis = redis
        self._blends = StagedBlends(weights, get_kernels("cpu"), store, budget_bytes=BUDGET_BYTES)
        self._num_adapters = 0

    def add(self, adapter: Adapter) -> SharingRow:
        name = f"adapter-{self._num_adapters}"
        write_adapter(adapter, self._files / f"{name}.safetensors")
        self._store.put(ParsedUpload(adapter=adapter, card=None, base_verified=True), tenant="default", name=name)
        self._blends.stage_and_hold(Blend(members=(BlendMember(version=adapter.version, scale=1.0),)))
        self._num_adapters += 1
        described = self._store.describe()
        device_bytes = self._blends.describe()["num_bytes"]
        assert isinstance(device_bytes, int)  # noqa: S101
        return SharingRow(
            num_adapters=self._num_adapters,
            num_index_sets=described["disk"]["num_index_sets"],
            files=_file_bytes(self._files),
            disk=_file_bytes(self._disk),
            redis=sum(int(self._redis.strlen(key)) for key in self._redis.scan_iter("shira:*:blob:*")),
            host=described["host"]["num_bytes"],
            device=device_bytes,
        )


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _powers_of_two(most: int) -> set[int]:
    return {1 << power for power in range(most.bit_length())} | {most}


def _render(options: SharingOptions, rows: list[SharingRow]) -> str:
    head = f"{options.mask} adapters of {options.sparsity:.1%} of {options.model_dir.name}, MB (× what N files take)"
    lines = [head, f"{'N':>4} {'index sets':>11} {'N files':>9}" + "".join(f"{tier:>16}" for tier in TIERS)]
    for row in rows:
        cells = [getattr(row, tier) for tier in TIERS]
        shown = "".join(f"{f'{cell / 1e6:.2f} ({cell / row.files:.2f})':>16}" for cell in cells)
        lines.append(f"{row.num_adapters:>4} {row.num_index_sets:>11} {row.files / 1e6:>9.2f}{shown}")
    return "\n".join(lines)
