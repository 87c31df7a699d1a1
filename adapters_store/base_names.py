"""From the name that somebody else's file uses to the base's weight."""

from __future__ import annotations

from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.errors import AdapterRejected, BaseMismatch

_CLIP_MODULE = "text_model."


def find_weight(name: str, base: BaseDescription) -> BaseWeight:
    """``name`` as it is in a base that is one model. In a pipeline it may begin with its component; without one it is
    the denoiser's if the denoiser has it, else that of the one text encoder that has it.

    Raises BaseMismatch for a name the base does not have, AdapterRejected for one that fits several components."""
    for readings in _readings(name, base):
        fitting = [reading for reading in readings if reading in base.weights]
        if len(fitting) > 1:
            components = [reading.partition(".")[0] for reading in fitting]
            raise AdapterRejected(
                "component",
                tensor=ascii(name[:120]),
                expected=f"a name that begins with its component ({'., '.join(components)}.)",
                got=f"one that fits {' and '.join(components)}",
            )
        if fitting:
            check_adaptable(fitting[0], base)
            return base.weights[fitting[0]]
    raise BaseMismatch("weight", tensor=ascii(name[:120]), expected=expected_names(base), got="an unknown name")


def check_adaptable(name: str, base: BaseDescription) -> None:
    """Raises BaseMismatch for a weight of a component that takes no adapters."""
    if not base.is_adaptable(name):
        expected = f"a weight of {' or '.join(base.adaptable_components)}"
        raise BaseMismatch("component", tensor=name, expected=expected, got=f"one of {name.partition('.')[0]}")


def expected_names(base: BaseDescription) -> str:
    """What to say of a base to somebody whose adapter was made for another kind of model."""
    of_base = next((name for name in base.weights if base.is_adaptable(name) and name.endswith(".weight")), None)
    example = f", such as {of_base}" if of_base else ""
    if base.components:
        return f"a weight of {' or '.join(base.adaptable_components)} in a pipeline that draws pictures{example}"
    return f"a weight of the base{example}"


def spellings(name: str) -> tuple[str, ...]:
    """The names of one weight ``<component>.<parameter>``: transformers 5 has no module ``text_model`` in CLIP's text
    encoder any more, checkpoints and adapters made before have."""
    component, _, rest = name.partition(".")
    if not component.startswith("text_encoder"):
        return (name,)
    if rest.startswith(_CLIP_MODULE):
        return (name, f"{component}.{rest.removeprefix(_CLIP_MODULE)}")
    return (name, f"{component}.{_CLIP_MODULE}{rest}")


def _readings(name: str, base: BaseDescription) -> list[list[str]]:
    """What ``name`` may stand for, in order of precedence."""
    if not base.components:
        return [[name]]
    denoiser, *text_encoders = [f"{component}.{name}" for component in base.adaptable_components]
    return [
        list(spellings(name)),
        [denoiser],
        [spelling for reading in text_encoders for spelling in spellings(reading)],
    ]
