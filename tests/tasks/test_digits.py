"""The fixed split of the digits."""

import torch

from batchwright.tasks.classification import accuracy, stratified_split
from batchwright.tasks.digits import digits_cnn, digits_mlp


def test_the_split_is_stratified_complete_and_without_overlap():
    classes = torch.randint(10, (1797,), generator=torch.Generator().manual_seed(0))
    train, evaluation = stratified_split(classes, every=5, generator=torch.Generator().manual_seed(1))
    assert (len(train), len(evaluation)) == (1437, 360)
    assert torch.cat([train, evaluation]).sort().values.equal(torch.arange(1797))
    parts = torch.bincount(classes[evaluation]) - torch.bincount(classes) / 5
    assert parts.abs().max() <= 1


def test_the_digits_are_split_1437_to_360_and_standardised():
    task = digits_mlp()
    inputs, classes = task.train.tensors
    assert inputs.shape == (1437, 64)
    assert task.evaluation.tensors[0].shape == (360, 64)
    assert abs(float(inputs.mean())) < 1e-5
    assert abs(float(inputs.std()) - 1) < 1e-5
    assert torch.bincount(classes).min() > 130
    assert torch.equal(digits_cnn().train.tensors[0].flatten(1), inputs)


def test_accuracy_is_one_where_the_class_is_right():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    found = accuracy(torch.nn.Identity(), (logits, torch.tensor([1, 1, 1])))
    assert found.tolist() == [1.0, 0.0, 1.0]
