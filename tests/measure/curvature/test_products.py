"""Hessian products against dense Hessians by plain autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batchwright.core.errors import InputError, TaskError
from batchwright.measure.curvature import HessianOperator, hvp

DENSE = ("mlp", "cnn", "gpt")  # few enough parameters for a dense Hessian


def matrix_of(operator):
    return torch.stack([operator.matvec(row) for row in torch.eye(operator.dim, dtype=operator.dtype)])


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().sum(dim=1)


@pytest.mark.parametrize("name", DENSE)
def test_the_product_is_that_of_the_dense_hessian(name, make_case, dense):
    case = make_case(name)
    expected = dense(case.model, case.loss, [case.batch])
    operator = HessianOperator(case.model, case.loss, case.batch)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        vector = operator.random_vector(generator)
        torch.testing.assert_close(operator.matvec(vector), expected @ vector, rtol=1e-9, atol=1e-11)
    assert operator.num_products == 3
    assert operator.dim == len(expected)


@pytest.mark.parametrize("name", DENSE)
def test_a_product_in_single_precision_is_that_of_the_dense_hessian(name, make_case, dense):
    case, fine = make_case(name, torch.float32), make_case(name)
    expected = dense(fine.model, fine.loss, [fine.batch]).float()
    vector = torch.randn(len(expected), generator=torch.Generator().manual_seed(2))
    found = hvp(case.model, case.loss, case.batch, vector)
    assert torch.linalg.vector_norm(found - expected @ vector) < 1e-5 * torch.linalg.vector_norm(expected @ vector)


@pytest.mark.parametrize("graph_bytes", [0, 20_000, 2**30])
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_unequal_batches_and_micro_batches_weigh_by_their_examples(micro_batch_size, graph_bytes, make_case, dense):
    case = make_case("mlp")
    batches = [tuple(leaf[a:b] for leaf in case.batch) for a, b in ((0, 11), (11, 13), (13, 20))]
    expected = dense(case.model, case.loss, [case.batch])
    operator = HessianOperator(
        case.model, case.loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes
    )
    assert operator.num_examples == 20
    with operator.held():
        torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_that_of_the_mean_loss(make_case):
    case = make_case("mlp")
    operator = HessianOperator(case.model, case.loss, case.batch, micro_batch_size=7)
    case.loss(case.model, case.batch).mean().backward()
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in case.model.parameters()])
    torch.testing.assert_close(operator.gradient(), expected)


def test_a_list_of_tensors_gives_a_list_of_tensors(make_case):
    case = make_case("mlp")
    vector = [torch.randn_like(parameter) for parameter in case.model.parameters()]
    flat = torch.cat([piece.reshape(-1) for piece in vector])
    found = hvp(case.model, case.loss, case.batch, vector)
    assert [piece.shape for piece in found] == [piece.shape for piece in vector]
    torch.testing.assert_close(
        torch.cat([piece.reshape(-1) for piece in found]), hvp(case.model, case.loss, case.batch, flat)
    )


def test_frozen_parameters_are_left_out(make_case, dense):
    case = make_case("mlp")
    case.model[0].weight.requires_grad_(False)
    expected = dense(case.model, case.loss, [case.batch])
    operator = HessianOperator(case.model, case.loss, case.batch)
    assert operator.dim == 8 + 32 + 4
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)
    assert not case.model[0].weight.requires_grad


def test_a_tied_weight_counts_once():
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3, bias=False).double(), nn.Linear(3, 3, bias=False).double()
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    batch = (torch.randn(5, 3).double(), torch.randn(5, 3).double())

    def of_flat(flat):
        weight = flat.view(3, 3)
        return (torch.tanh(batch[0] @ weight.T) @ weight.T - batch[1]).square().sum() / 5

    expected = torch.autograd.functional.hessian(of_flat, first.weight.detach().reshape(-1))
    operator = HessianOperator(model, squares, batch)
    torch.testing.assert_close(matrix_of(operator), expected, rtol=1e-9, atol=1e-11)


def test_batch_norm_in_train_mode_is_one_function_of_its_batch(dense):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(n, 3).double(), torch.randn(n, 2).double()) for n in (6, 9)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    operator = HessianOperator(model, squares, batches)
    torch.testing.assert_close(matrix_of(operator), dense(model, squares, batches), rtol=1e-8, atol=1e-10)
    model.load_state_dict(before)
    operator.matvec(torch.ones(operator.dim).double())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"micro_batch_size must be at least the batch size.*layer '1'.*model\.eval"):
        HessianOperator(model, squares, batches, micro_batch_size=4)
    HessianOperator(model.eval(), squares, batches, micro_batch_size=4)


@pytest.mark.parametrize("graph_bytes", [0, 2**30])
def test_dropout_is_one_mask_in_all_products(graph_bytes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).double()
    batch = (torch.randn(6, 3).double(), torch.randn(6, 2).double())
    operator = HessianOperator(model, squares, batch, micro_batch_size=2, graph_bytes=graph_bytes)
    state = torch.get_rng_state()
    matrix = matrix_of(operator)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-11)
    assert torch.equal(torch.get_rng_state(), state)
    with operator.held():
        torch.testing.assert_close(matrix_of(operator), matrix)


def test_a_product_leaves_everything_as_it_was(make_case):
    case = make_case("cnn")
    for parameter in case.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    grads = [parameter.grad for parameter in case.model.parameters()]
    state, modes = torch.get_rng_state(), [module.training for module in case.model.modules()]
    values = [value.clone() for value in case.model.state_dict().values()]

    def failing(model, batch):
        model(batch[0])
        model.train()
        torch.rand(1)
        raise ValueError("no loss today")

    operator = HessianOperator(case.model, case.loss, case.batch)
    operator.matvec(torch.ones(operator.dim).double())
    with pytest.raises(ValueError, match="no loss today"):
        hvp(case.model, failing, case.batch, torch.ones(operator.dim).double())
    new_grads = [parameter.grad for parameter in case.model.parameters()]
    assert all(new is old and bool((new == 1).all()) for new, old in zip(new_grads, grads, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in case.model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(case.model.state_dict().values(), values, strict=True))


def test_a_product_works_where_gradients_are_switched_off(make_case):
    case = make_case("gpt")
    operator = HessianOperator(case.model, case.loss, case.batch)
    vector = operator.random_vector(torch.Generator().manual_seed(0))
    expected = operator.matvec(vector)
    with torch.no_grad():
        torch.testing.assert_close(operator.matvec(vector), expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_products(kind):
    torch.manual_seed(0)
    model = kind(2, 3, batch_first=True)

    def last(model, batch):
        return model(batch)[0][:, -1].square().sum(dim=1)

    operator = HessianOperator(model, last, torch.randn(4, 5, 2))
    left, right = (operator.random_vector(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(left @ operator.matvec(right), right @ operator.matvec(left))


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    model = nn.Linear(3, 1)
    assert not hvp(model, lambda m, x: m(x).squeeze(1), torch.randn(4, 3), torch.ones(4)).any()


def test_wrong_inputs_are_named(make_case):
    case = make_case("mlp")
    operator = HessianOperator(case.model, case.loss, case.batch)
    with pytest.raises(InputError, match=r"vector must be flat .*\(92,\), got \(3,\)"):
        operator.matvec(torch.ones(3))
    with pytest.raises(InputError, match="one tensor of the shape of each of the 4 trainable parameters"):
        operator.matvec([torch.ones(3)])
    with pytest.raises(InputError, match="at least one batch, got none"):
        HessianOperator(case.model, case.loss, [])
    with pytest.raises(InputError, match="at least one example, got none"):
        HessianOperator(case.model, case.loss, tuple(leaf[:0] for leaf in case.batch))
    with pytest.raises(InputError, match=r"which may be either; write \[batch\]"):
        HessianOperator(case.model, case.loss, list(case.batch))
    with pytest.raises(TaskError, match="one floating-point loss an example"):
        hvp(case.model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), case.batch, torch.ones(92).double())


def test_single_tensors_may_be_batches():
    model = nn.Linear(2, 1, bias=False)

    def loss(model, x):
        return model(x).squeeze(1).square()

    rows = torch.eye(2)
    one = HessianOperator(model, loss, rows).matvec(torch.ones(2))
    torch.testing.assert_close(HessianOperator(model, loss, iter([rows, rows])).matvec(torch.ones(2)), one)
    torch.testing.assert_close(HessianOperator(model, loss, [rows, rows[:1]]).num_examples, 3)
