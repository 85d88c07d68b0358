"""Spectral norm against singular values, the falling learning rate, collapse, causes of NaN, and resume with all of them."""

import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.core.errors import CheckpointError, InputError, NonFiniteLossError
from batchwright.gan.collapse import BestSample, missing_classes, share_interval
from batchwright.gan.lr_rule import RelativeLr
from batchwright.gan.spectral import spectral_norms

pytestmark = pytest.mark.filterwarnings("ignore::batchwright.gan.FeatureScaleWarning")
QUICK = {"batch_size": 16, "lr": 1e-3, "critic_steps": 1, "warmup_critic_steps": 1, "warmup_steps": 0, "clip": None}


def digits():
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1


def make(data=None, networks=None, seed=0, extractor=None, classifier=None, **options):
    torch.manual_seed(seed)
    networks = bw.gan.mlp_networks() if networks is None else networks
    data = digits() if data is None else data
    chosen = bw.gan.GanOptions(**{**QUICK, **options})
    return bw.gan.MMDGAN(data, networks, chosen, extractor=extractor, classifier=classifier)


def weights(trainer):
    return torch.cat([value.flatten().double() for value in trainer._modules().state_dict().values()])


def test_spectral_norm_holds_every_weight_of_the_critic_to_the_scale():
    trainer = make(spectral_norm=True, spectral_scale=1.5, lr=1e-2)
    before = [p.detach().clone() for p in trainer.networks.critic.parameters()]
    trainer.train(40)
    assert not all(torch.equal(p, q) for p, q in zip(trainer.networks.critic.parameters(), before, strict=True))
    # The power iteration lags a little behind the steps.
    assert spectral_norms(trainer.networks.critic) == pytest.approx([1.5] * 3, rel=0.1)
    free = make(lr=1e-2)
    free.train(40)
    assert max(spectral_norms(free.networks.critic)) > 1.8


def test_spectral_norm_reaches_convolutions_and_is_wired_once():
    torch.manual_seed(0)
    critic = bw.gan.small_networks(8, 1, width=8).critic
    assert bw.gan.add_spectral_norm(critic, 2.0) == 2
    assert bw.gan.add_spectral_norm(critic, 2.0) == 2
    critic(torch.randn(4, 1, 8, 8))
    assert spectral_norms(critic) == pytest.approx([2.0] * 2, rel=0.1)
    with pytest.raises(InputError, match="critic must have a linear or convolutional layer"):
        bw.gan.add_spectral_norm(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match=r"spectral_norm needs clip=None, got clip=0\.01"):
        bw.gan.GanOptions(spectral_norm=True)


@pytest.mark.parametrize("size", [8, 14, 28, 32, 64])
def test_small_networks_have_the_size_that_was_asked_for(size):
    networks = bw.gan.small_networks(size, 3, noise_dim=5, num_features=6, width=4)
    images = networks.generator(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert networks.critic(images).shape == (2, 6)
    assert networks.decoder(networks.critic(images)).shape == images.shape
    with pytest.raises(InputError, match="image_size must be 4 or 7 times a power of 2, got 30; 8, 28, 32 and 64 are"):
        bw.gan.small_networks(30)


def test_the_parameters_of_the_small_networks_are_as_many_as_documented():
    networks = bw.gan.small_networks(28)
    counts = [sum(p.numel() for p in part.parameters()) for part in (networks.generator, networks.critic)]
    assert [round(count / 1e6, 2) for count in counts] == [0.08, 0.08]


def test_the_learning_rate_falls_after_three_looks_without_a_gain_and_not_while_there_is_one():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(300, 4, generator=generator)

    def sample(shift):
        return torch.randn(300, 4, generator=generator) + shift

    better = RelativeLr(reference, window=2, patience=3)
    found = [better.look(step, sample(3.0 - 0.4 * step)) for step in range(7)]
    assert [test.p_value for test in found[:2]] == [None, None]
    assert all(test.p_value < 0.1 and not test.lowers for test in found[2:])
    worse = RelativeLr(reference, window=2, patience=3)
    found = [worse.look(step, sample(1.0 + 0.4 * step)) for step in range(9)]
    assert all(test.p_value > 0.9 for test in found[2:])
    assert [test.lowers for test in found] == [False] * 4 + [True, False, False, True, False]


def test_the_trainer_lowers_both_learning_rates_and_a_look_changes_nothing_else():
    options = {"lr_test_every": 1, "lr_test_window": 1, "lr_test_patience": 1, "lr_test_points": 50, "critic_lr": 2e-3}
    looking = make(**options)
    # An extractor that sees nothing: no look can show a gain, so every one but the first lowers.
    blind = make(extractor=lambda points: points.new_zeros(len(points), 2), **options)
    plain = make(critic_lr=2e-3)
    for trainer in (looking, blind, plain):
        trainer.train(1)
    assert torch.equal(weights(looking), weights(plain))
    blind.train(2)
    assert blind.lrs == pytest.approx((0.25e-3, 0.5e-3))
    assert [test.lowers for test in blind.lr_tests] == [False, True, True]
    assert plain.lrs == pytest.approx((1e-3, 2e-3))


def test_the_interval_of_a_share_is_clopper_and_pearson_s():
    # Known values: 0 of 20 is at most 1 - 0.025^(1/20); 5 of 20 from 0.0866 to 0.4910.
    assert share_interval(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert share_interval(5, 20) == pytest.approx((0.0866, 0.4910), abs=1e-4)
    assert share_interval(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))


def test_a_class_is_missing_only_where_that_is_sure():
    even = [0.25] * 4
    assert missing_classes(torch.tensor([0, 1, 2] * 5), even) == []  # 0 of 15 may yet be 22 %
    (told,) = missing_classes(torch.tensor([0, 1, 2] * 100), even)
    assert "class 3 has 0 % of 300 generated points (at most 1.2 %) and 25 % of the data" in told
    assert missing_classes(torch.tensor([0, 1, 2, 3] * 100), even) == []


def test_a_sample_that_is_surely_worse_than_the_best_is_told_with_both_distances():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(400, 3, generator=generator)
    best = BestSample(reference)
    assert best.look(1, torch.randn(400, 3, generator=generator) + 1) == ""
    assert best.look(2, torch.randn(400, 3, generator=generator) + 0.1) == ""
    assert best.step == 2
    assert best.look(3, torch.randn(400, 3, generator=generator) + 0.1) == ""
    assert "at step" in best.look(4, torch.zeros(400, 3))


def test_a_generator_that_makes_one_point_is_told_as_a_collapse():
    class OnePoint(nn.Module):
        def __init__(self):
            super().__init__()
            self.point = nn.Parameter(torch.zeros(64))

        def forward(self, noise):
            return self.point.tanh().expand(len(noise), 64)

    parts = bw.gan.mlp_networks()
    networks = bw.gan.GanNetworks(generator=OnePoint(), critic=parts.critic, decoder=None, noise_dim=10)

    def classes(points):  # of two halves of the data, by the brightness of one pixel
        bright = points[:, 20] > 0
        return torch.stack([~bright, bright], dim=1).float()

    trainer = make(networks=networks, classifier=classes, collapse_every=1)
    with pytest.warns(bw.gan.CollapseWarning, match=r"step 1: class [01] has 0 % of 500 generated points"):
        trainer.train(1)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda t: t.data.fill_(torch.nan), "16 of 16 real points hold NaN or infinity; mend the data"),
        (
            lambda t: t.networks.critic[0].weight.data.fill_(torch.nan),
            r"the critic's parameter 0.weight is not finite after a step along a gradient of norm \d.*; lower its learning rate",
        ),
        (
            lambda t: t.networks.generator[6].weight.data.fill_(torch.inf),
            "the generator's parameter 6.weight is not finite",
        ),
        (
            lambda t: [t.networks.critic[i].weight.data.fill_(1e30) for i in (0, 2, 4)],
            r"the critic's features overflow: its largest parameter is 1e\+30; bound it with clip, spectral_norm",
        ),
    ],
)
def test_a_loss_that_is_not_finite_is_told_with_its_cause(break_it, told):
    trainer = make(data=digits()[:64].clone())
    trainer.train(1)
    break_it(trainer)
    with pytest.raises(NonFiniteLossError, match=told):
        trainer.train(1)


def test_a_gradient_that_is_not_finite_never_reaches_the_parameters():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.inf

    class Layer(nn.Module):
        def forward(self, x):
            return Bad.apply(x)

    parts = bw.gan.mlp_networks()
    critic = nn.Sequential(nn.Linear(64, 4), Layer())
    networks = bw.gan.GanNetworks(generator=parts.generator, critic=critic, decoder=None, noise_dim=10)
    trainer = make(networks=networks)
    before = weights(trainer)
    with pytest.raises(NonFiniteLossError, match=r"the critic's gradient must be finite, got norm (nan|inf) of a loss"):
        trainer.train(1)
    moved = [(a, b) for a, b in zip(before, weights(trainer), strict=True) if a != b]
    assert len(moved) <= sum(b.numel() for b in trainer.networks.generator.buffers())  # batch norm's alone


@pytest.mark.filterwarnings("ignore::batchwright.gan.CollapseWarning")
@pytest.mark.parametrize("spectral", [False, True])
def test_a_run_with_everything_resumes_bit_by_bit(tmp_path, spectral):
    options = {
        "spectral_norm": spectral,
        "ema": 0.9,
        "optimizer": "adam",
        "lr_test_every": 1,
        "lr_test_window": 1,
        "lr_test_patience": 1,
        "lr_test_points": 60,
        "collapse_every": 2,
        "generator_batch_size": 24,
    }

    def blind(points):  # sees no gain, so the learning rates fall at every look but the first
        return points[:, :3] * 0

    whole, first, second = (make(seed=seed, extractor=blind, **options) for seed in (0, 0, 5))
    for trainer in (whole, first):
        trainer.train(2)
        trainer.set_batch_sizes(generator=20, critic=12)
        trainer.train(1)
    first.save(tmp_path)
    second.resume(tmp_path)
    for trainer in (whole, second):
        trainer.train(3)
    assert torch.equal(weights(whole), weights(second))
    assert torch.equal(whole.sample(5), second.sample(5))
    assert second.lrs == whole.lrs
    assert second.lrs[0] == pytest.approx(1e-3 / 32)
    assert second.batch_sizes == (20, 12)
    assert second.lr_tests == whole.lr_tests
    assert second._looks.best.distance == whole._looks.best.distance
    without = make(seed=0, spectral_norm=spectral, optimizer="adam", ema=0.9)
    without.train(1)
    without.save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="must hold looks for lr_test_every or collapse_every, got none"):
        make(**options).resume(tmp_path / "other")


def test_a_generator_batch_of_its_own_is_used():
    trainer = make(generator_batch_size=40)
    seen = []
    trainer.networks.generator.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    trainer.train(1)
    assert seen == [16, 40]
    with pytest.raises(InputError, match="got 64 points for batch_size=65"):
        make(data=digits()[:64], generator_batch_size=65)
    with pytest.raises(InputError, match="got 1797 points for batch_size=4000"):
        trainer.set_batch_sizes(generator=16, critic=4000)
