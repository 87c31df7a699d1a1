"""Gradients of whole weights on a sample of the data: what the masks ``grad`` and ``snip`` rank by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adapters_store.tools.data import Examples


def accumulated_gradients(
    model: nn.Module, names: Sequence[str], examples: Examples, *, batch_size: int, num_examples: int
) -> dict[str, Tensor]:
    """The gradient of the loss in each named weight, summed in fp32 on the CPU over batches of ``num_examples``
    examples spread evenly over the data. The model is left as it was. For as long as this runs, gradients take what
    the named weights take, once in the model's dtype and once in fp32.

    Raises KeyError for a name that is not a parameter of ``model``.
    """
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros(parameters[name].shape) for name in names}
    frozen = {name: parameter.requires_grad for name, parameter in parameters.items()}
    was_training = model.training
    model.eval()  # the same gradients again, whatever dropout the model has
    model.requires_grad_(False)
    for name in names:
        parameters[name].requires_grad_(True)
    try:
        for batch in DataLoader(_sample(examples, num_examples), batch_size=batch_size):
            device = parameters[names[0]].device
            model(input_ids=batch["input_ids"].to(device), labels=batch["labels"].to(device)).loss.backward()
            for name in names:
                gradient, parameters[name].grad = parameters[name].grad, None
                sums[name] += 0 if gradient is None else gradient.float().cpu()
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(frozen[name])
            if name in sums:
                parameter.grad = None
        model.train(was_training)
    return sums


def _sample(examples: Examples, num_examples: int) -> Examples:
    num_taken = min(num_examples, len(examples))
    return examples.take(torch.arange(num_taken) * len(examples) // num_taken)
