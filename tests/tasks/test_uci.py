"""Tables: the split, the statistics of the training part, and the unit of the loss."""

import numpy as np
import pytest
import torch

from batchwright.core.errors import DataError, InputError
from batchwright.tasks.uci import squared_error, uci_mlp


@pytest.fixture
def table_root(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("yacht", "concrete"):
        (tmp_path / "uci" / name).mkdir(parents=True)
    table = rng.normal(5.0, 3.0, (100, 7))
    table[:, 2] = 4.0  # a column that never varies
    np.savetxt(tmp_path / "uci/yacht/data.txt", table)
    return tmp_path


def test_a_table_is_standardised_by_its_training_part_and_split_nine_to_one(table_root):
    task = uci_mlp(table_root, table="yacht")
    inputs, targets = task.train.tensors
    assert inputs.shape == (90, 6)
    assert task.evaluation.tensors[0].shape == (10, 6)
    expected = torch.ones(6)
    expected[2] = 0.0
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs.std(dim=0, correction=0), expected, rtol=0, atol=1e-5)
    assert float(targets.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    again = uci_mlp(table_root, table="yacht")
    assert torch.equal(inputs, again.train.tensors[0])


def test_squared_error_is_one_an_example():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    found = squared_error(model, (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0])))
    assert found.tolist() == [4.0, 0.0]


def test_an_unknown_table_and_a_missing_file_are_told(table_root):
    with pytest.raises(InputError, match=r"table must be one of adult, concrete, .*, yacht, got 'boston'"):
        uci_mlp(table_root, table="boston")
    with pytest.raises(DataError, match=r"data file must be there, got '.*uci/energy/data.txt'"):
        uci_mlp(table_root, table="energy")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "num_train", "num_evaluation", "num_inputs"),
    [
        ("adult", 32_561, 16_281, 105),
        ("concrete", 927, 103, 8),
        ("energy", 692, 76, 8),
        ("power-plant", 8_612, 956, 4),
        ("protein", 41_157, 4_573, 9),
        ("wine-quality", 5_848, 649, 12),
        ("yacht", 278, 30, 6),
    ],
)
def test_the_real_tables_have_their_sizes(table, num_train, num_evaluation, num_inputs, data_root):
    task = uci_mlp(data_root, table=table)
    assert (len(task.train), len(task.evaluation)) == (num_train, num_evaluation)
    assert task.train.tensors[0].shape[1] == num_inputs
