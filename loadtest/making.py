"""Makes the adapters of a run: those that are held, those that come and go, and files that no server may accept."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, Fingerprint, build_adapter
from adapters_store.base import BaseDescription
from adapters_store.format import Positions, pack_positions, write_adapter
from adapters_store.tools.peft_export import write_peft
from loadtest.scenario import Population, Uploads
from loadtest.stock import HostileFile, UploadFile
from server.bench_serve.random_adapters import DELTA_SCALE, is_of_decoder, sparse_adapter
from server.bench_serve.workload import adapter_name

SEEDS_OF_SECOND_VERSIONS, SEEDS_OF_UPLOADS = 10_000, 20_000
FOREIGN = Fingerprint("sha256:" + "0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """``files`` in the order in which they are uploaded: the name points at the last."""

    name: str
    files: tuple[tuple[str, Path], ...]  # version and native file


def is_target_of(base: BaseDescription) -> Callable[[str], bool]:
    """The denoiser of a pipeline, the linear layers of a language model."""
    if not base.components:
        return is_of_decoder
    denoiser = base.adaptable_components[0] + "."
    return lambda name: name.startswith(denoiser)


def make_held(base: BaseDescription, population: Population, folder: Path) -> Iterator[Held]:
    for number in range(population.num_adapters):
        second = [SEEDS_OF_SECOND_VERSIONS + number] if number < population.num_moving else []
        files = []
        for seed in [*second, number]:
            adapter = _drawn(base, population.sparsity, seed)
            path = folder / f"held-{seed}.safetensors"
            write_adapter(adapter, path)
            files.append((str(adapter.version), path))
        yield Held(name=adapter_name(number), files=tuple(files))


def make_upload_files(base: BaseDescription, uploads: Uploads, folder: Path) -> Iterator[UploadFile]:
    for number in range(uploads.num_files):
        adapter = _of_rank(base, uploads.rank, SEEDS_OF_UPLOADS + number)
        native, peft = folder / f"upload-{number}.safetensors", folder / f"upload-{number}-peft"
        write_adapter(adapter, native)
        if not base.components:
            linear = {entry.name for entry in adapter.index_set.table}
            write_peft(adapter, peft, base_name="load test", linear=linear)
        yield UploadFile(version=adapter.version, native=native, peft=None if base.components else peft)


def make_hostile_files(base: BaseDescription, uploads: Uploads, folder: Path) -> list[HostileFile]:
    """Each breaks another check."""
    good = folder / "good.safetensors"
    write_adapter(_of_rank(base, uploads.rank, SEEDS_OF_UPLOADS), good)
    data = good.read_bytes()
    good.unlink()
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    middle = (header_end + len(data)) // 2
    bodies = {
        "empty": b"",
        "cut off": data[:middle],
        "endless header": struct.pack("<Q", 1 << 40) + data[8:],
        "header that is no JSON": data[:8] + b"\xff" * (header_end - 8) + data[header_end:],
        "a flipped byte": data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :],
        "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    }
    files = []
    for label, body in bodies.items():
        path = folder / f"hostile-{label.replace(' ', '-')}.safetensors"
        path.write_bytes(body)
        files.append(HostileFile(label=label, path=path))
    foreign = folder / "hostile-foreign-base.safetensors"
    write_adapter(_of_rank(replace(base, fingerprint=FOREIGN), uploads.rank, SEEDS_OF_UPLOADS), foreign)
    return [*files, HostileFile(label="foreign base", path=foreign)]


def _drawn(base: BaseDescription, sparsity: float, seed: int) -> Adapter:
    return sparse_adapter(base, sparsity=sparsity, seed=seed, is_target=is_target_of(base))


def _of_rank(base: BaseDescription, rank: int, seed: int) -> Adapter:
    """As many entries of every 2-D target as PEFT's SHiRA of this rank has, which is all that its files can hold."""
    rng, is_target = np.random.default_rng(seed), is_target_of(base)
    positions = [
        Positions(name=name, shape=weight.shape, dtype=dtype, flat=_chosen(weight.shape, rank, rng))
        for name, weight in sorted(base.weights.items(), key=lambda item: item[0].encode())
        if is_target(name) and len(weight.shape) == 2 and (dtype := weight.adaptable_dtype) is not None
    ]
    index_set = pack_positions(positions)
    values = rng.standard_normal(index_set.num_entries, dtype=np.float32) * np.float32(DELTA_SCALE)
    return build_adapter(base=base.fingerprint, index_set=index_set, values=torch.from_numpy(values).bfloat16())


def _chosen(shape: tuple[int, ...], rank: int, rng: np.random.Generator) -> Tensor:
    numel = int(np.prod(shape))
    chosen = rng.choice(numel, size=min(rank * sum(shape), numel), replace=False, shuffle=False)
    return torch.from_numpy(np.sort(chosen))
