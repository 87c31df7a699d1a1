"""The folder that training keeps beside its output until the adapter is written: recipe, index set, checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from adapters_store.adapter import Digest, Fingerprint, IndexSet
from adapters_store.durable import write_durably
from adapters_store.errors import TrainingRefused
from adapters_store.format import decode_index_set, encode_index_set
from adapters_store.tools.train_options import RecipeOptions

RECIPE_FILE = "recipe.json"
INDEX_SET_PREFIX = "index-set-"
DIGEST_PREFIX = "sha256:"
PATHS = {"model_dir", "data", "prior_data", "output"}  # what lies there is known by its digest
FREE_TO_CHANGE = PATHS | {"resume", "checkpoint_steps"}


def check_progress(options: RecipeOptions) -> None:
    """Refuses a folder that is in the way, before anything is loaded. Raises TrainingRefused when it belongs to the
    user, or is there and ``resume`` was not asked for."""
    folder = options.progress_dir
    if (folder / RECIPE_FILE).exists():
        if not options.resume:
            got = f"{folder}: training that was interrupted"
            raise TrainingRefused("resume", expected="to be given, or that folder to be removed", got=got)
        return
    is_free = not any(folder.iterdir()) if folder.is_dir() else not folder.exists()
    if not is_free:
        got = f"{folder}: something that training did not put there"  # and must not remove
        raise TrainingRefused("output", expected="nothing in the way of its progress", got=got)


@contextmanager
def progress_kept(options: RecipeOptions, base: Fingerprint, data: Digest) -> Iterator[Path]:
    """The folder that ``check_progress`` found in order, made or taken up. It is removed when all went well, and when
    there is no point in resuming because training was refused; whatever else happens, it stays.

    Raises TrainingRefused when it belongs to another recipe."""
    folder = options.progress_dir
    _open(folder, _recipe(options, base, data))
    try:
        yield folder
    except TrainingRefused:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def keep_index_set(folder: Path, index_set: IndexSet) -> None:
    hexadecimal = index_set.digest.removeprefix(DIGEST_PREFIX)
    write_durably(folder / f"{INDEX_SET_PREFIX}{hexadecimal}", encode_index_set(index_set), tmp_dir=folder)


def kept_index_set(folder: Path) -> IndexSet | None:
    """The mask that was chosen before the interruption: another number of threads might choose another one."""
    for path in folder.glob(f"{INDEX_SET_PREFIX}*"):
        digest = Digest(DIGEST_PREFIX + path.name.removeprefix(INDEX_SET_PREFIX))
        return decode_index_set(bytearray(path.read_bytes()), digest)
    return None


def _open(folder: Path, recipe: dict[str, object]) -> None:
    path = folder / RECIPE_FILE
    if not path.exists():
        folder.mkdir(exist_ok=True)
        write_durably(path, [json.dumps(recipe, indent=2).encode()], tmp_dir=folder)
        return
    kept = json.loads(path.read_bytes())
    for field, value in recipe.items():
        if kept.get(field) != value:
            raise TrainingRefused(field, expected=f"{kept.get(field)}, as when training began", got=str(value))


def _recipe(options: RecipeOptions, base: Fingerprint, data: Digest) -> dict[str, object]:
    fields = {name: value for name, value in asdict(options).items() if name not in FREE_TO_CHANGE}
    recipe: dict[str, object] = json.loads(json.dumps({**fields, "base": base, "data_digest": data}))
    return recipe
