"""Gauss-Newton, Fisher and empirical Fisher products against dense matrices of Jacobians."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batchwright.core.errors import InputError
from batchwright.measure.curvature import EmpiricalFisherOperator, FisherOperator, GgnOperator, HessianOperator

CASES = ("mlp", "cnn", "gpt")


def matrix_of(operator):
    with operator.held():
        return torch.stack([operator.matvec(row) for row in torch.eye(operator.dim, dtype=operator.dtype)])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def squares(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(dim=1)


def jacobian(flat_of, model, function):
    of_flat, flat = flat_of(model, function)
    return torch.autograd.functional.jacobian(of_flat, flat)


def dense_categorical(flat_of, case):
    """The Fisher matrix of the logits, position by position, and so the GGN of cross-entropy."""
    tokens = case.batch[0][:, :-1] if len(case.batch) == 1 else case.batch[0]
    logits = case.model(tokens).detach()
    rows = logits.reshape(-1, logits.shape[-1])
    jacobians = jacobian(flat_of, case.model, lambda m: m(tokens).reshape(rows.shape))
    probabilities = rows.softmax(-1)
    middle = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]
    return torch.einsum("bcd,bce,bef->df", jacobians, middle, jacobians) / len(rows)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_the_gauss_newton_product_is_that_of_the_dense_matrix(name, micro_batch_size, make_case, flat_of):
    case = make_case(name)
    operator = GgnOperator(case.model, case.loss, case.batch, micro_batch_size=micro_batch_size)
    close(matrix_of(operator), dense_categorical(flat_of, case))


@pytest.mark.parametrize("name", CASES)
def test_the_exact_categorical_fisher_is_the_gauss_newton_of_cross_entropy(name, make_case):
    case = make_case(name)
    vector = torch.randn(GgnOperator(case.model, case.loss, case.batch).dim, dtype=torch.float64)
    fisher = FisherOperator(case.model, case.loss, case.batch, micro_batch_size=5)
    close(fisher.matvec(vector), GgnOperator(case.model, case.loss, case.batch).matvec(vector))


def test_the_fisher_does_not_look_at_the_targets_and_the_empirical_fisher_does(make_case):
    case = make_case("mlp")
    other = (case.batch[0], (case.batch[1] + 1) % 4)
    vector = torch.ones(92, dtype=torch.float64)

    def both(batch):
        return [kind(case.model, case.loss, batch).matvec(vector) for kind in (FisherOperator, EmpiricalFisherOperator)]

    (fisher, empirical), (fisher_other, empirical_other) = both(case.batch), both(other)
    close(fisher, fisher_other)
    assert not torch.allclose(empirical, empirical_other, rtol=1e-2)


@pytest.mark.parametrize("variance", [1.0, 0.5])
def test_the_gaussian_fisher_is_the_gauss_newton_of_half_the_squared_error(variance, flat_of):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = (torch.randn(6, 3).double(), torch.randn(6, 2).double())

    def loss(model, batch):
        return squares(model, batch) / variance

    jacobians = jacobian(flat_of, model, lambda m: m(batch[0]))
    expected = torch.einsum("bcd,bcf->df", jacobians, jacobians) / 6 / variance
    close(matrix_of(FisherOperator(model, loss, batch, likelihood="gaussian", variance=variance)), expected)
    close(matrix_of(GgnOperator(model, loss, batch)), expected)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_the_sampled_fisher_is_unbiased_and_one_fixed_matrix(likelihood, make_case):
    case = make_case("mlp")
    exact = FisherOperator(case.model, case.loss, case.batch, likelihood=likelihood)
    vector = exact.random_vector(torch.Generator().manual_seed(3))
    expected = float(vector @ exact.matvec(vector))
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        sampled = FisherOperator(
            case.model,
            case.loss,
            case.batch,
            likelihood=likelihood,
            num_samples=2,
            generator=generator,
            micro_batch_size=15,
        )
        found.append(float(vector @ sampled.matvec(vector)))
        assert found[-1] == pytest.approx(float(vector @ sampled.matvec(vector)))
    values = torch.tensor(found)
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / len(found) ** 0.5
    assert float(values.std()) / len(found) ** 0.5 < 0.05 * expected


@pytest.mark.parametrize("name", CASES)
def test_the_empirical_fisher_is_the_second_moment_of_gradients(name, make_case, flat_of):
    case = make_case(name)
    rows = jacobian(flat_of, case.model, lambda m: case.loss(m, case.batch))
    operator = EmpiricalFisherOperator(case.model, case.loss, case.batch, micro_batch_size=4)
    close(matrix_of(operator), rows.T @ rows / len(rows))


def test_gauss_newton_and_hessian_agree_where_the_model_is_linear(make_case):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    batch = (torch.randn(7, 4).double(), torch.randint(3, (7,)))
    loss = make_case("mlp").loss
    close(matrix_of(GgnOperator(model, loss, batch)), matrix_of(HessianOperator(model, loss, batch)))


def test_unequal_batches_weigh_by_their_examples(make_case):
    case = make_case("mlp")
    batches = [tuple(leaf[a:b] for leaf in case.batch) for a, b in ((0, 11), (11, 13), (13, 20))]
    for kind in (GgnOperator, FisherOperator, EmpiricalFisherOperator):
        close(matrix_of(kind(case.model, case.loss, batches)), matrix_of(kind(case.model, case.loss, case.batch)))


def test_outputs_with_classes_on_the_second_axis():
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1).double()
    batch = (torch.randn(4, 2, 2, 2).double(), torch.randint(3, (4, 2, 2)))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none").mean(dim=(1, 2))

    close(matrix_of(FisherOperator(model, loss, batch, class_axis=1)), matrix_of(GgnOperator(model, loss, batch)))
    with pytest.raises(InputError, match="class_axis must be an axis of the output other than its first, got 0"):
        FisherOperator(model, loss, batch, class_axis=0).matvec(torch.ones(9).double())


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.scale, x


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: (m(b) + m(b)).square().sum(1), "exactly once, got 2 calls; give forward="),
        (lambda m, b: (b @ m.weight.T).square().sum(1), r"calling it alone, got a use of model\.weight; give forward="),
        (lambda m, b: m(b).square().sum(1) + sum(p.sum() for p in m.parameters()), r"parameters\(\).*; give forward="),
        (lambda m, b: b.square().sum(1) + m(b).detach().sum(1), "must depend on the model's output.*; give forward="),
        (lambda m, b: m(b).square().sum(1) * torch.rand(len(b)), None),
    ],
)
def test_a_loss_that_cannot_be_split_says_the_way_out(loss, message):
    torch.manual_seed(0)
    operator = GgnOperator(nn.Linear(2, 2), loss, torch.randn(3, 2))
    if message is None:  # random numbers of the loss are drawn again
        operator.matvec(torch.ones(6))
        return
    with pytest.raises(InputError, match=message):
        operator.matvec(torch.ones(6))


def test_a_loss_that_reaches_the_parameters_past_the_output_is_refused():
    model = nn.Linear(2, 2)
    operator = GgnOperator(model, lambda m, b: m(b).square().sum(1) + model.weight.square().sum(), torch.randn(3, 2))
    with pytest.raises(InputError, match=r"through the model's output alone.*; give forward="):
        operator.matvec(torch.ones(6))


def test_an_output_of_several_tensors_needs_its_forward_given():
    model, batch = TwoHeads(), torch.randn(5, 2)

    def loss(model, batch):
        return model(batch)[0].square().sum(1)

    with pytest.raises(InputError, match="must be one tensor, got tuple; give forward="):
        GgnOperator(model, loss, batch).matvec(torch.ones(2))
    with pytest.raises(InputError, match="given together, got no output_loss"):
        GgnOperator(model, loss, batch, forward=lambda m, b: m(b)[0])
    operator = GgnOperator(model, loss, batch, forward=lambda m, b: m(b)[0], output_loss=lambda z, b: z.square().sum(1))
    torch.testing.assert_close(operator.matvec(torch.ones(2)), 2 * batch.square().mean(0))
    wrong = GgnOperator(
        model, loss, batch, forward=lambda m, b: m(b)[0], output_loss=lambda z, b: z.square().sum(1) + 1
    )
    with pytest.raises(InputError, match="must be a function of the model's output"):
        wrong.matvec(torch.ones(2))


def test_the_empirical_fisher_refuses_batch_norm_in_train_mode():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="examples must not depend on each other"):
        EmpiricalFisherOperator(model, lambda m, b: m(b).sum(1), torch.randn(4, 2))


def test_an_output_without_a_gradient_has_no_curvature():
    model = nn.Linear(2, 2)
    operator = EmpiricalFisherOperator(model, lambda m, b: b.sum(1), torch.randn(4, 2))
    assert not operator.matvec(torch.ones(6)).any()
