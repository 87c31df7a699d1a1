"""What ``shira bench serve`` was asked, checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from adapters_store.tools.plotting import require_matplotlib
from server.bench_serve.plan import Plan
from server.bench_serve.subjects import Offline, VllmServer
from server.core.errors import ServerError


class BenchRefused(ServerError):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """``model_dir`` is served as it is, or with ``random_params`` lends its tokenizer to a random Llama of that size.
    ``json_file``, ``plot_file`` and ``report_file`` are written where given."""

    plans: tuple[Plan, ...]
    model_dir: Path
    random_params: int | None = None
    work_dir: Path
    sparsity: float = 0.01
    threads: int | None = None
    num_rounds: int = 5
    seed: int = 0
    server_options: Mapping[str, str]
    vllm_python: Path | None = None
    json_file: Path | None = None
    plot_file: Path | None = None
    report_file: Path | None = None

    def check(self) -> None:
        """Raises BenchRefused, TrainingRefused."""
        subjects = {cell.subject for plan in self.plans for cell in plan.cells}
        if any(isinstance(subject, VllmServer) for subject in subjects) and self.vllm_python is None:
            raise BenchRefused("vllm: expected the Python of an environment with vLLM (--vllm), got none")
        needs_peft = any(isinstance(subject, Offline) and subject.num_adapters for subject in subjects)
        if (needs_peft or self.vllm_python is not None) and find_spec("peft") is None:
            raise BenchRefused("peft: expected pip install 'shira-server[bench]', got not installed")
        if self.plot_file is not None:
            require_matplotlib()
        for file in (self.json_file, self.plot_file, self.report_file):
            if file is not None and not file.absolute().parent.is_dir():
                raise BenchRefused(f"{file}: expected a folder that exists, got {file.absolute().parent}")
