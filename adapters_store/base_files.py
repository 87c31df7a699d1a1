"""Which files hold the weights of a base: one model's folder, or the folders of a diffusers pipeline's components."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.errors import BaseUnreadable

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
PIPELINE_INDEX = "model_index.json"
_STEMS = {"diffusers": ("diffusion_pytorch_model",), "transformers": ("model",)}
_ANY_STEM = ("model", "diffusion_pytorch_model")  # of components that a pipeline's own module defines
_FOREIGN_SUFFIXES = frozenset({".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """A safetensors file; the canonical name of a weight in it is ``prefix`` + its stored name."""

    path: Path
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFiles:
    """The files of each component that has weights. ``variant`` is what diffusers has to be told to load the same."""

    variant: str | None
    components: Mapping[str, list[Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What ``model_index.json`` says of one component."""

    library: str
    class_name: str


def is_pipeline(model_dir: Path) -> bool:
    return (model_dir / PIPELINE_INDEX).is_file()


def weight_files(model_dir: Path) -> list[WeightFile]:
    """Every safetensors file of a model (no prefix) or a pipeline (``<component>.``). Raises BaseUnreadable."""
    if not is_pipeline(model_dir):
        return [WeightFile(path=shard, prefix="") for shard in find_shards(model_dir)]
    components = pipeline_files(model_dir).components
    return [WeightFile(path=path, prefix=f"{name}.") for name, paths in components.items() for path in paths]


def find_shards(model_dir: Path) -> list[Path]:
    """``model.safetensors``, else the files its shard index names, else every ``*.safetensors``, in order of name."""
    if (model_dir / SINGLE_FILE).is_file():
        return [model_dir / SINGLE_FILE]
    if (model_dir / SHARD_INDEX).is_file():
        return _indexed_files(model_dir / SHARD_INDEX)
    shards = sorted(model_dir.glob("*.safetensors"))
    if not shards:
        raise BaseUnreadable(
            f"no *.safetensors in {model_dir}: a base model is a folder with safetensors weights "
            "(other formats have to be saved as safetensors first)"
        )
    return shards


def pipeline_files(model_dir: Path) -> PipelineFiles:
    """What diffusers loads by default: the plain files; a variant (``….fp16.safetensors``) only if some component has
    no other, and then wherever it is there. Raises BaseUnreadable."""
    found = {
        name: variants
        for name, component in read_components(model_dir).items()
        if (variants := _files_by_variant(model_dir / name, component.library))
    }
    variant = _one_variant(model_dir, found)
    return PipelineFiles(
        variant=variant,
        components={name: found[name].get(variant) or found[name][None] for name in sorted(found)},
    )


def read_components(model_dir: Path) -> dict[str, Component]:
    """The components of ``model_index.json`` that are there (not null), by name. Raises BaseUnreadable."""
    index_file = model_dir / PIPELINE_INDEX
    components = {}
    for name, entry in read_index(model_dir).items():
        if name.startswith("_") or not isinstance(entry, list) or not any(entry):
            continue  # an option of the pipeline, or a component that it does without
        if not name.isidentifier() or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise BaseUnreadable(f"{index_file}: {name}: expected [library, class], got {ascii(entry)[:80]}")
        if not (model_dir / name).is_dir():
            raise BaseUnreadable(f"{index_file} lists the component {name}, but {model_dir} has no folder of that name")
        components[name] = Component(library=entry[0], class_name=entry[1])
    return components


def read_index(model_dir: Path) -> dict[str, Any]:
    """``model_index.json`` as it is. Raises BaseUnreadable."""
    return _read_object(model_dir / PIPELINE_INDEX)


def _files_by_variant(folder: Path, library: str) -> dict[str | None, list[Path]]:
    """Empty for a component without weights (a tokenizer, a scheduler). ``None`` is the plain one."""
    found: dict[str | None, list[Path]] = {}
    for stem in _STEMS.get(library, _ANY_STEM):
        for file in sorted(folder.glob(f"{stem}.*")):
            match file.name.removeprefix(f"{stem}.").split("."):
                case ["safetensors"]:
                    variant, paths = None, [file]
                case [name, "safetensors"] if "-of-" not in name:
                    variant, paths = name, [file]
                case ["safetensors", "index", "json"]:
                    variant, paths = None, _indexed_files(file)
                case ["safetensors", "index", name, "json"]:
                    variant, paths = name, _indexed_files(file)
                case _:
                    continue
            if variant in found:
                raise BaseUnreadable(f"{folder}: {found[variant][0].name} and {file.name} both claim to be its weights")
            found[variant] = paths
    unused = [file.name for file in folder.iterdir() if file.suffix in _FOREIGN_SUFFIXES]
    if unused and not found:
        expected = " or ".join(f"{stem}.safetensors" for stem in _STEMS.get(library, _ANY_STEM))
        raise BaseUnreadable(
            f"{folder}: expected {expected}, got {', '.join(sorted(unused))[:200]}; "
            "load the pipeline with diffusers and save it again with save_pretrained, which writes safetensors"
        )
    return found


def _one_variant(model_dir: Path, found: Mapping[str, Mapping[str | None, list[Path]]]) -> str | None:
    without_plain = {name: set(variants) for name, variants in found.items() if None not in variants}
    if not without_plain:
        return None
    shared = set.intersection(*without_plain.values())
    if len(shared) != 1:
        listed = "; ".join(f"{name}: {', '.join(sorted(map(str, has)))}" for name, has in without_plain.items())
        raise BaseUnreadable(
            f"{model_dir}: expected plain weights or one variant of all components without them, got {listed}"
        )
    return shared.pop()


def _indexed_files(index_file: Path) -> list[Path]:
    weight_map = _read_object(index_file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BaseUnreadable(f"{index_file}: not a shard index with a weight_map")
    names = list(weight_map.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index_file.parent / name).is_file():
            raise BaseUnreadable(f"{index_file}: names {name!r}, which is no file beside this index")
    return [index_file.parent / name for name in sorted(set(names))]


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise BaseUnreadable(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BaseUnreadable(
            f"{file}: expected the JSON object of a shard or pipeline index, got a {type(content).__name__}"
        )
    return content
