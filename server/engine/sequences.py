"""Which kind of sequence a request becomes."""

from __future__ import annotations

from server.core.requests import GenerationRequest, ImageRequest, TextRequest
from server.engine.course import Course
from server.engine.image_sequence import ImageSequence
from server.engine.messages import EventSink
from server.engine.sequence import Sequence
from server.engine.text_sequence import TextSequence


def sequence_of(request: GenerationRequest, sink: EventSink) -> Sequence:
    course = Course() if request.trace.is_recorded else None
    match request:
        case TextRequest():
            return TextSequence(request=request, sink=sink, course=course)
        case ImageRequest():
            return ImageSequence(request=request, sink=sink, course=course)
        case _:
            raise TypeError(f"a {type(request).__name__} is neither text nor image")
