"""What this machine needs to reach its package registries, for the roots: pip's and apt's settings, proxies, mirrors.

None of it gets into a layer or a report: it is there while a step runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
PUBLIC_MIRRORS = {
    SUITE: "http://deb.debian.org/debian",
    f"{SUITE}-updates": "http://deb.debian.org/debian",
    f"{SUITE}-security": "http://deb.debian.org/debian-security",
}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
NETWORK_FILES = (Path("/etc/resolv.conf"), Path("/etc/hosts"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    environment: Mapping[str, str]  # for RUN
    paths: tuple[Path, ...]  # that the environment names, and what name resolution reads
    mirrors: Mapping[str, str]  # suite -> where it comes from
    apt: str  # lines of apt.conf

    @property
    def sources(self) -> str:
        """Lines of sources.list."""
        return "".join(f"deb [signed-by={KEYRING}] {uri} {suite} main\n" for suite, uri in self.mirrors.items())

    def bindings(self, root: Path) -> dict[Path, Path]:
        """Places in ``root`` and what of this machine is put there."""
        return {root / path.relative_to("/"): path for path in self.paths}


def settings_of_this_host() -> HostSettings:
    environment = {name: value for name, value in os.environ.items() if name.lower() in PROXIES}
    environment |= _pip_settings()
    return HostSettings(
        environment=environment,
        paths=NETWORK_FILES + tuple(_paths_in(environment.values())),
        mirrors=_mirrors() or PUBLIC_MIRRORS,
        apt=_apt_settings(),
    )


def _pip_settings() -> dict[str, str]:
    """pip's options from its files and variables, those for all commands, as variables."""
    listed = _output(sys.executable, "-m", "pip", "config", "list")
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        if match := re.fullmatch(r"(?:global|:env:)\.([\w-]+)=(.+)", line):
            settings[f"PIP_{match[1].replace('-', '_').upper()}"] = str(ast.literal_eval(match[2]))
    return settings


def _paths_in(values: Iterable[str]) -> list[Path]:
    words = (word.removeprefix("file://") for value in values for word in value.split())
    found = {Path(word) for word in words if word.startswith("/") and Path(word).exists()}
    # An index on this machine may be one of links: what they lead to lies beside it.
    return sorted({path.parent if path.name == "simple" else path for path in found})


def _mirrors() -> dict[str, str]:
    """Empty on a machine of another Debian, or of none."""
    try:
        listed = _output("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = dict(line.split() for line in listed.splitlines() if len(line.split()) == 2)
    return {suite: found[suite] for suite in PUBLIC_MIRRORS if suite in found} if SUITE in found else {}


def _apt_settings() -> str:
    try:
        listed = _output("apt-config", "dump")
    except (OSError, subprocess.CalledProcessError):
        return ""
    wanted = r"(?i)Acquire::(https?::[\w.:-]*Proxy|Check-Valid-Until|Check-Date)[\w.:-]* "
    return "".join(f"{line}\n" for line in listed.splitlines() if re.match(wanted, line))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
