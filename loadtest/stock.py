"""What the users of a run are given beside its trace: servers, the versions they hold, files to upload. No torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from loadtest.scenario import ServerName


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class UploadFile(_Stored):
    """``native`` is also what a download must give, byte for byte, whichever form is uploaded; ``peft`` is a folder."""

    version: str
    native: Path
    peft: Path | None


class HostileFile(_Stored):
    label: str
    path: Path


class ServerStock(_Stored):
    """``versions`` of each adapter that is held from the start; a move goes to the next one, in a cycle."""

    url: str
    versions: dict[str, tuple[str, ...]]
    files: tuple[UploadFile, ...]
    hostile: tuple[HostileFile, ...]


class Stock(_Stored):
    """``words`` are texts of one token each, for prompts; ``captions`` are what pictures are asked for."""

    servers: dict[ServerName, ServerStock]
    words: tuple[str, ...]
    captions: tuple[str, ...]

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json())

    @classmethod
    def load(cls, path: Path) -> Stock:
        return cls.model_validate_json(path.read_text())
