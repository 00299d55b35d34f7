"""What is known about the padding does not change predictions and gradients of an AIMNet2, and saves a read."""

import copy

import pytest
import torch
from torch import Tensor, nn

from aimnet2mult.models.build import build_model
from aimnet2mult.models.dense_masks import use_known_padding
from aimnet2mult.models.known_padding import knowing_padding
from support.aimnet2_batches import DEFINITION, LABELS, Batch, make_batches

GPU = torch.device("cuda", 0)
"""Where the model would be; here it is on the CPU."""


def results(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Return predictions, and in training mode the gradients."""
    model.zero_grad()
    pred = model(dict(batch[0]))
    predictions = [pred[label.name].detach() for label in LABELS]
    if not model.training:
        return predictions
    torch.stack([pred[label.name].square().sum() for label in LABELS]).sum().backward()
    return predictions + [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("padding", [0, 2])
def test_predictions_and_gradients_are_the_same_bits(padding: int, training: bool) -> None:
    (batch,) = make_batches(1, padding=padding)
    model = build_model(DEFINITION, labels=LABELS, n_fidelities=2).train(training)
    expected = results(model, batch)
    use_known_padding(model)
    with knowing_padding(batch[0]["numbers"], GPU):
        found = results(model, batch)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_part_of_a_padded_batch_may_have_no_padding() -> None:
    (batch,) = make_batches(1, padding=2)
    part = tuple({key: value[1:3] for key, value in half.items()} for half in batch)
    model = build_model(DEFINITION, labels=LABELS, n_fidelities=2)
    expected = results(model, part)  # type: ignore[arg-type]
    use_known_padding(model)
    with knowing_padding(batch[0]["numbers"], GPU):
        found = results(model, part)  # type: ignore[arg-type]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_without_the_context_a_model_finds_out_by_itself() -> None:
    plain = build_model(DEFINITION, labels=LABELS, n_fidelities=2)
    model = copy.deepcopy(plain)
    use_known_padding(model)
    for padding in (0, 2):
        (batch,) = make_batches(1, padding=padding)
        assert all(torch.equal(*pair) for pair in zip(results(model, batch), results(plain, batch), strict=True))


def test_the_names_of_the_weights_do_not_change() -> None:
    model = build_model(DEFINITION, labels=LABELS)
    names = list(model.state_dict())
    use_known_padding(model)
    assert list(model.state_dict()) == names
