"""The mean loss of a model over examples it does not learn from."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

from adapters_store.tools.data import NOT_PREDICTED, Examples


@torch.no_grad()
def mean_loss(model: nn.Module, examples: Examples, *, batch_size: int) -> float:
    """Per predicted token, in nats; its exponential is the perplexity. Runs on the model's device."""
    model.eval()
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64)
    for batch in DataLoader(examples, batch_size=batch_size):
        labels = batch["labels"].to(device)
        loss = model(input_ids=batch["input_ids"].to(device), labels=labels).loss
        total += loss.double().cpu() * int((labels[:, 1:] != NOT_PREDICTED).sum())
    return float(total / examples.num_predicted)
