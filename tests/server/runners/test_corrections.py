from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters_store.adapter import build_index_set, build_table
from adapters_store.kernels import RowGroup, RowTargets, bind, get_row_kernels
from server.runners.corrections import corrected, linears_of_every_token, names_of

NUM_TOKENS = 3


class Odd(nn.Module):
    """A model with everything that must be left out, and one product over a transposed input."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.mixer = nn.Linear(8, 8, bias=False)
        self.expert = nn.Linear(8, 8, bias=False)
        self.twice = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)  # (1, tokens, 8)
        x = x + self.mixer(x.transpose(1, 2).contiguous().transpose(1, 2))
        x = x + torch.cat([self.expert(x[:, :1]), x[:, 1:]], dim=1)
        x = self.twice(self.twice(x))
        logits: Tensor = self.head(x)
        return logits


def run(model: Odd) -> int:
    model(torch.arange(NUM_TOKENS).unsqueeze(0))
    return NUM_TOKENS


def test_only_products_over_each_token_once_by_a_weight_of_their_own_can_be_corrected() -> None:
    """A head tied to the embedding was corrected, while the embedding looked up the plain words."""
    model = Odd()
    linears = linears_of_every_token(model, lambda: run(model))
    assert names_of(model, linears) == {"mixer.weight"}


def test_a_product_over_a_transposed_input_is_corrected_too() -> None:
    """It was refused, and the step failed for everyone in it."""
    model, changed = Odd().requires_grad_(False), Odd().requires_grad_(False)
    changed.load_state_dict(model.state_dict())
    changed.mixer.weight[2, 5] += 1.0
    tokens = torch.arange(NUM_TOKENS).unsqueeze(0)
    linears = linears_of_every_token(model, lambda: run(model))
    group = RowGroup(start=0, stop=NUM_TOKENS, targets=targets_of(model.mixer.weight, 2 * 8 + 5, changed.mixer.weight))
    with corrected(linears, [group], get_row_kernels("cpu")):
        found = model(tokens)
    assert torch.allclose(found, changed(tokens), atol=1e-6)
    assert not torch.allclose(model(tokens), found, atol=1e-3)


def targets_of(weight: Tensor, position: int, changed: Tensor) -> RowTargets:
    """The word of ``changed`` at one position."""
    table = build_table([("mixer.weight", (8, 8), "float32", 1)])
    index_set = build_index_set(table, torch.tensor([0, 1]), torch.tensor([position], dtype=torch.uint16))
    layout = get_row_kernels("cpu").layout(bind(index_set, [weight]))
    return RowTargets(layout=layout, words=changed.view(-1)[position : position + 1].clone().view(torch.uint8))
