"""A folder of pictures with a caption each.

- ``metadata.jsonl`` in the folder: an object a line, ``{"file_name": "…", "text": "…"}``, as the ``imagefolder`` of
  the datasets library has it; other keys are passed over
- else ``name.txt`` beside each ``name.png``
- else, or instead, one caption for all, given by whoever calls
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, ValidationError

from adapters_store.adapter import Digest, canonical_json, sha256_digest
from adapters_store.errors import TrainingRefused

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedPicture:
    path: Path
    caption: str

    def load(self, resolution: int) -> Image.Image:
        """RGB, cut to a square of ``resolution`` pixels a side around its middle, what is transparent on white. Raises
        TrainingRefused."""
        try:
            with Image.open(self.path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            got = f"{self.path.name}: {error}"
            raise TrainingRefused("data", expected="pictures that can be read", got=got) from error
        page = Image.new("RGBA", picture.size, "white")
        page.alpha_composite(picture)
        return ImageOps.fit(page.convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)


def read_folder(folder: Path, *, caption: str | None, field: str = "data") -> list[CaptionedPicture]:
    """In order of name. ``caption`` is that of all. Raises TrainingRefused naming ``field``, and the line or picture at
    fault."""
    if not folder.is_dir():
        raise TrainingRefused(field, expected="a folder of pictures, for the base draws pictures", got=str(folder))
    if caption is None and (folder / METADATA).is_file():
        pictures = list(_listed(folder, field))
    else:
        paths = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        pictures = [
            CaptionedPicture(path=path, caption=_caption_beside(path, field) if caption is None else caption)
            for path in paths
        ]
    if not pictures:
        got = f"{folder}: none of {', '.join(SUFFIXES)}"
        raise TrainingRefused(field, expected="a picture at least", got=got)
    return sorted(pictures, key=lambda picture: picture.path)


def pictures_digest(pictures: list[CaptionedPicture]) -> Digest:
    """Of what the files hold, and the captions. Raises TrainingRefused."""
    try:
        listed = [[sha256_digest(picture.path.read_bytes()), picture.caption] for picture in pictures]
    except OSError as error:
        got = f"{error.filename}: {error.strerror}"
        raise TrainingRefused("data", expected="pictures that can be read", got=got) from error
    return sha256_digest(canonical_json(listed))


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    file_name: str
    text: str


def _listed(folder: Path, field: str) -> Iterator[CaptionedPicture]:
    for number, text in enumerate(_read_text(folder / METADATA, field).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            got = f"{METADATA}, line {number}: {where}: {first['msg']}"
            raise TrainingRefused(field, expected='{"file_name": "…", "text": "…"}', got=got) from None
        path = folder / line.file_name
        if not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
            got = f"{METADATA}, line {number}: {line.file_name!r}"
            raise TrainingRefused(field, expected=f"files inside {folder.name}", got=got)
        yield CaptionedPicture(path=path, caption=line.text)


def _caption_beside(path: Path, field: str) -> str:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        got = f"{path.name} without"
        expected = f"captions: a {METADATA}, a {beside.name} beside {path.name}, or one caption for all"
        raise TrainingRefused(field, expected=expected, got=got)
    return _read_text(beside, field).strip()


def _read_text(path: Path, field: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TrainingRefused(field, expected="a readable file", got=f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingRefused(field, expected="UTF-8", got=f"{path}: byte {error.start} is not") from error
