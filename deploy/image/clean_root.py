"""The clean root that stands for python:3.11-slim-bookworm: debootstrap's smallest Debian, with Debian's Python 3.11.

Beside Python it has what the official image has (certificates, time zones, netbase, Python's headers): no compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import IO

from deploy.image.config import BASE_ENVIRONMENT
from deploy.image.host import SUITE, HostSettings
from deploy.image.root import Command, bound, run_in

INCLUDED = "ca-certificates,netbase,tzdata"
# The official image keeps nothing of what apt downloads either.
KEEP_NOTHING = 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Keep-Downloaded-Packages "false";\n'
INSTALL_PYTHON = """
apt-get update
apt-get install --yes --no-install-recommends python3 python3-venv
cd /tmp
apt-get -o APT::Sandbox::User=root download libpython3.11-dev
dpkg-deb --fsys-tarfile libpython3.11-dev_*.deb | tar --extract --directory / ./usr/include
rm libpython3.11-dev_*.deb
ln --symbolic /usr/bin/python3.11 /usr/local/bin/python
apt-get clean
rm -rf /var/lib/apt/lists/*
"""


def make_clean_root(folder: Path, host: HostSettings, log: IO[bytes]) -> None:
    """Raises CommandFailed, subprocess.CalledProcessError."""
    debootstrap = shutil.which("debootstrap") or "debootstrap"
    command = [debootstrap, "--variant=minbase", f"--include={INCLUDED}", SUITE, str(folder), host.mirrors[SUITE]]
    subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    (folder / "etc/apt/sources.list").write_text(host.sources)
    (folder / "etc/apt/apt.conf.d/90host").write_text(KEEP_NOTHING + host.apt)
    environment = {**BASE_ENVIRONMENT, **host.environment, "DEBIAN_FRONTEND": "noninteractive"}
    with bound(host.bindings(folder)):
        run_in(folder, Command(words=("sh", "-ec", INSTALL_PYTHON), environment=environment), log)
