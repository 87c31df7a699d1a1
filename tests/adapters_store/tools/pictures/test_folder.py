from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from adapters_store.errors import TrainingRefused
from adapters_store.tools.pictures.folder import CaptionedPicture, pictures_digest, read_folder
from tests.adapters_store.tools.pictures.conftest import COLOURS, captioned


def captions(pictures: list[CaptionedPicture]) -> dict[str, str]:
    return {picture.path.name: picture.caption for picture in pictures}


def test_a_text_file_beside_each_picture_is_its_caption(data: Path) -> None:
    assert captions(read_folder(data, caption=None)) == {f"{colour}.png": f"a {colour} half" for colour in COLOURS}


def test_a_metadata_file_names_its_pictures_in_sub_folders_too_and_goes_before_the_text_files(data: Path) -> None:
    (data / "more").mkdir()
    Image.new("L", (8, 8)).save(data / "more" / "grey.jpg")
    lines = [{"file_name": "red.png", "text": "warm"}, {"file_name": "more/grey.jpg", "text": "cool", "width": 8}]
    (data / "metadata.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    assert captions(read_folder(data, caption=None)) == {"red.png": "warm", "grey.jpg": "cool"}


def test_one_caption_is_that_of_every_picture(data: Path) -> None:
    assert set(captions(read_folder(data, caption="a zorp")).values()) == {"a zorp"}
    (data / "red.txt").unlink()
    assert len(read_folder(data, caption="a zorp")) == 3


def test_the_digest_knows_pictures_and_captions_but_not_where_they_lie(data: Path, tmp_path: Path) -> None:
    elsewhere = captioned(tmp_path / "elsewhere")
    first = pictures_digest(read_folder(data, caption=None))
    assert pictures_digest(read_folder(elsewhere, caption=None)) == first
    assert pictures_digest(read_folder(data, caption="other")) != first
    Image.new("RGB", (8, 8), "black").save(elsewhere / "red.png")
    assert pictures_digest(read_folder(elsewhere, caption=None)) != first


def test_what_is_transparent_becomes_white_and_the_square_is_cut_from_the_middle(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (30, 10), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 10, 10))
    picture.paste((0, 0, 255, 255), (15, 0, 20, 10))
    picture.save(tmp_path / "wide.png")
    loaded = CaptionedPicture(path=tmp_path / "wide.png", caption="").load(10)
    assert (loaded.mode, loaded.size) == ("RGB", (10, 10))
    assert loaded.getpixel((1, 5)) == (255, 255, 255)
    assert loaded.getpixel((8, 5)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ('{"file_name": "red.png"}', r"metadata\.jsonl, line 1: text: Field required"),
        ('\n{"file_name": "red.png", "text": 3}', r"line 2: text: Input should be a valid string"),
        ("nonsense", r"line 1: the line: Invalid JSON"),
        ('{"file_name": "none.png", "text": "x"}', r"files inside pictures, got metadata\.jsonl, line 1: 'none\.png'"),
        ('{"file_name": "../secret.png", "text": "x"}', r"files inside pictures, .*'\.\./secret\.png'"),
        ("\n", "data: expected a picture at least"),
        (b"\xff", "data: expected UTF-8"),
    ],
)
def test_bad_metadata_is_refused_by_its_line(data: Path, metadata: str | bytes, message: str) -> None:
    Image.new("L", (8, 8)).save(data.parent / "secret.png")
    (data / "metadata.jsonl").write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    with pytest.raises(TrainingRefused, match=message):
        read_folder(data, caption=None)


def test_a_picture_without_a_caption_is_refused_by_name(data: Path) -> None:
    (data / "green.txt").unlink()
    with pytest.raises(
        TrainingRefused, match=r"green\.txt beside green\.png, or one caption .* got green\.png without"
    ):
        read_folder(data, caption=None)


def test_a_file_or_a_folder_without_pictures_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="prior_data: expected a folder of pictures"):
        read_folder(data / "red.png", caption="x", field="prior_data")
    with pytest.raises(TrainingRefused, match=r"a picture at least, got .*: none of \.png"):
        read_folder(tmp_path, caption="x")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n half"])
def test_a_picture_that_cannot_be_read_is_refused_by_name(data: Path, content: bytes) -> None:
    (data / "red.png").write_bytes(content)
    red = read_folder(data, caption=None)[-1]
    with pytest.raises(TrainingRefused, match=r"data: expected pictures that can be read, got red\.png"):
        red.load(16)


def test_a_picture_that_ends_too_early_is_refused_by_name(data: Path) -> None:
    whole = (data / "red.png").read_bytes()
    (data / "red.png").write_bytes(whole[:-30])
    with pytest.raises(TrainingRefused, match=r"can be read, got red\.png"):
        read_folder(data, caption=None)[-1].load(16)
