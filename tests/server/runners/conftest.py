from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import transformers

from loadtest.tiny_model import Architecture, save_tiny_model
from server.runners.loading import LoadedModel, load_llm

transformers.utils.logging.disable_progress_bar()

Load = Callable[[Architecture], LoadedModel]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Tiny fp32 models, each made once for the session. Tests must leave the weights as they were."""

    @cache
    def loaded(architecture: Architecture) -> LoadedModel:
        return load_llm(save_tiny_model(tmp_path_factory.mktemp(architecture), architecture))

    return loaded
