"""Code that a pipeline's directory brings along is never run; what would need it is refused before anything loads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from adapters_store.base_files import Component, read_components, read_index
from server.core.errors import ModelNotLoadable

_LIBRARIES = ("diffusers", "transformers")


def refuse_own_code(path: Path) -> None:
    """Raises ModelNotLoadable if a component, or the pipeline itself, is not a class of diffusers or transformers.
    Raises BaseUnreadable for an index that cannot be followed."""
    class_name = read_index(path).get("_class_name")
    if not isinstance(class_name, str):
        raise _own_code(
            path, f"_class_name: expected the name of a pipeline of diffusers, got {ascii(class_name)[:80]}"
        )
    for name, component in read_components(path).items():
        if not _is_library(component):
            raise _own_code(
                path, f"{name}: expected a class of diffusers or transformers, got one of {component.library!r}"
            )
        for config in (path / name).glob("*.json"):
            if b'"auto_map"' in config.read_bytes():
                raise _own_code(path, f"{name}/{config.name}: expected no auto_map, which names code to be run")
    for script in sorted([*path.glob("*.py"), *path.glob("*/*.py")]):
        raise _own_code(path, f"{script.relative_to(path)} is code; remove it if the pipeline does not need it")


def _is_library(component: Component) -> bool:
    """A pipeline's own module counts, such as ``stable_diffusion`` for its safety checker. Nothing is imported but
    diffusers itself."""
    if component.library in _LIBRARIES:
        return True
    name = component.library
    return name.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{name}") is not None


def _own_code(path: Path, problem: str) -> ModelNotLoadable:
    return ModelNotLoadable(f"{path}: {problem}; code of a model's own is never run, serve a pipeline without it")
