"""What a base that draws can do, for whoever must tell or check it. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureInfo:
    """``default_*``: of a request that states none, sizes in pixels. Both sides of a picture are multiples of
    ``size_multiple``. ``schedulers``: the names a request may give. ``can_preview``: pictures can be shown before they
    are done. ``takes_negative_prompt``, ``takes_guidance_scale``: each means something to this base. A negative prompt
    is heard with a guidance scale above ``guidance_threshold``, where that is not None."""

    default_height: int
    default_width: int
    default_num_steps: int
    size_multiple: int
    schedulers: tuple[str, ...]
    can_preview: bool
    takes_negative_prompt: bool
    takes_guidance_scale: bool
    guidance_threshold: float | None = None
    default_guidance_scale: float | None = None
