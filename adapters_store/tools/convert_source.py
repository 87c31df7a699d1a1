"""What an adapter on disk is: a native file, a SHiRA of PEFT in one file or two, or another adapter of PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapters_store.adapter import Digest, sha256_digest
from adapters_store.container import DEFAULT_LIMITS, map_file, parse_json, read_header
from adapters_store.errors import TrainingRefused
from adapters_store.format.native import MANIFEST_KEY
from adapters_store.peft_format import DIFFUSERS_KEY
from adapters_store.tools.peft_export import CONFIG_FILE, WEIGHTS_FILE

Form = Literal["native", "peft", "diffusers"]
SHIRA = "SHIRA"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """``config`` is that of PEFT's two files, empty for the other forms; ``digest`` that of the file with the
    weights."""

    form: Form
    peft_type: str
    config: Mapping[str, Any]
    weights_path: Path
    digest: Digest

    @property
    def is_sparse(self) -> bool:
        """Whether its entries can be taken over as they are."""
        return self.peft_type == SHIRA


def open_source(path: Path) -> Source:
    """Tells by content, without reading a tensor. Raises TrainingRefused, AdapterRejected, OSError."""
    if path.is_dir():
        return _open_folder(path)
    if path.suffix in PICKLES:
        raise TrainingRefused("input", expected="safetensors: nothing is unpickled here", got=path.name)
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        return _open_folder(path.parent)
    buffer = map_file(path, DEFAULT_LIMITS)
    metadata = read_header(buffer, DEFAULT_LIMITS).metadata
    form: Form
    if MANIFEST_KEY in metadata:
        form, peft_type = "native", SHIRA
    elif DIFFUSERS_KEY in metadata:
        form = "diffusers"
        peft_type = _parse_config(metadata[DIFFUSERS_KEY].encode(), DIFFUSERS_KEY)["peft_type"]
        if peft_type != SHIRA:
            raise TrainingRefused(
                "peft_type", expected=f"{SHIRA} in a single file (others as PEFT's two files)", got=peft_type
            )
    else:
        raise TrainingRefused(
            "input",
            expected="a native adapter, PEFT's two files, or SHiRA as diffusers saves it",
            got=f"a file without {MANIFEST_KEY!r} or {DIFFUSERS_KEY!r} in its metadata and no {CONFIG_FILE} beside it",
        )
    return Source(form=form, peft_type=peft_type, config={}, weights_path=path, digest=sha256_digest(buffer))


def _open_folder(folder: Path) -> Source:
    weights_path, config_path = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    if not config_path.is_file():
        raise TrainingRefused("input", expected=f"a folder with {CONFIG_FILE}", got=f"{folder}: none there")
    if not weights_path.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        got = f"{pickles[0]}: nothing is unpickled here" if pickles else f"{folder}: none there"
        raise TrainingRefused("input", expected=f"a folder with {WEIGHTS_FILE}", got=got)
    with config_path.open("rb") as file:
        config = _parse_config(file.read(DEFAULT_LIMITS.config_bytes + 1), CONFIG_FILE)
    return Source(
        form="peft",
        peft_type=config["peft_type"],
        config=config,
        weights_path=weights_path,
        digest=sha256_digest(map_file(weights_path, DEFAULT_LIMITS)),
    )


def _parse_config(text: bytes, what: str) -> dict[str, Any]:
    DEFAULT_LIMITS.check("config_bytes", len(text), tensor=what)
    config = parse_json(text, what=what, max_depth=DEFAULT_LIMITS.json_depth)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise TrainingRefused("input", expected=f"a {what} with a peft_type", got=ascii(config)[:80])
    return config
