"""The whole way of an adapter that is trained here and used with PEFT."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from adapters_store.base import describe_checkpoint
from adapters_store.errors import TrainingRefused
from adapters_store.format import read_adapter
from adapters_store.tools.applied import applied
from adapters_store.tools.checkpoint import load_causal_lm
from adapters_store.tools.convert import ConvertOptions, convert
from adapters_store.tools.train import TrainOptions, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
NUM_NEW_TOKENS = 24


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("abc def gh " * 200)
    return path


def greedy(model: torch.nn.Module) -> list[list[int]]:
    prompts = torch.arange(8).view(4, 2)
    found: torch.Tensor = model.generate(input_ids=prompts, max_new_tokens=NUM_NEW_TOKENS, do_sample=False)  # type: ignore[operator]
    return found.tolist()


@pytest.mark.parametrize("is_dora", [False, True])
def test_an_adapter_trained_here_gives_the_same_greedy_tokens_in_peft(
    model_dir: Path, data: Path, tmp_path: Path, is_dora: bool
) -> None:
    options = TrainOptions(
        model_dir=model_dir, data=data, output=tmp_path / "a", mask="snip", rank=2, dora=is_dora, learning_rate=3e-2,
        max_steps=20, sequence_length=16,
    )  # fmt: skip
    train(options)
    folder = tmp_path / "peft"
    convert(ConvertOptions(source=options.output, output=folder, base_dir=model_dir, to="peft"))
    adapter = read_adapter(options.output, base=describe_checkpoint(model_dir)).adapter
    model = load_causal_lm(model_dir, dtype=torch.float32, device="cpu").eval()
    before = greedy(model)
    with applied(model, [(adapter, 1.0)]):
        ours = greedy(model)
    theirs = peft.PeftModel.from_pretrained(load_causal_lm(model_dir, dtype=torch.float32, device="cpu"), folder)
    assert greedy(theirs.eval()) == ours != before


def test_a_count_that_peft_cannot_load_is_refused_with_the_figure(model_dir: Path, data: Path, tmp_path: Path) -> None:
    options = TrainOptions(
        model_dir=model_dir, data=data, output=tmp_path / "a", sparsity=0.01, max_steps=1, sequence_length=16
    )
    train(options)
    with pytest.raises(TrainingRefused, match=r"r\(m \+ n\) entries .* got 40 in .*, 0\.3125 times m \+ n = 128"):
        convert(ConvertOptions(source=options.output, output=tmp_path / "peft", base_dir=model_dir, to="peft"))
    assert not (tmp_path / "peft").exists()
