"""GMMN+AE: the autoencoder learns, its codes are what is matched, samples are decoded, and a run resumes bit by bit."""

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.gan.code_gmmn import CODE_KERNEL, CodeGMMN, autoencoder, code_networks, train_autoencoder


def digits():
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1


def made(data, num_steps=1, seed=0):
    torch.manual_seed(seed)
    coder = autoencoder((1, 8, 8), code_dim=8, width=64)
    losses = train_autoencoder(data, coder, num_steps=num_steps, seed=seed)
    return coder, losses


def test_the_autoencoder_learns_and_samples_of_its_codes_come_nearer_to_the_data():
    data = digits()
    torch.manual_seed(0)
    coder = autoencoder((1, 8, 8), code_dim=8, width=256)
    state = torch.get_rng_state()
    losses = train_autoencoder(data, coder, num_steps=1000)
    assert torch.equal(state, torch.get_rng_state())
    codes = coder.encoder(data)
    # The mean image alone has all of the variance as its error.
    assert (coder.decoder(codes) - data).square().mean() < 0.5 * data.var(dim=0).mean()
    assert losses[-1] < 0.5 * losses[0]
    assert not coder.encoder.training
    options = bw.gan.GanOptions(kernel=CODE_KERNEL, batch_size=200, lr=1e-3)
    trainer = CodeGMMN(data, code_networks(8), coder, options)

    def distance():
        return float(bw.gan.mmd2(codes[:400], coder.encoder(trainer.sample(400)), CODE_KERNEL))

    before = distance()
    trainer.train(100)
    assert trainer.sample(3).shape == (3, 1, 8, 8)
    assert distance() < 0.5 * before


def test_a_run_resumes_bit_by_bit_with_the_autoencoder_of_its_checkpoint(tmp_path):
    data = digits()
    options = bw.gan.GanOptions(kernel=CODE_KERNEL, batch_size=50, ema=0.9, lr_test_every=2, lr_test_points=40)
    trainers = []
    for seed in (0, 0, 4):
        coder, _ = made(data, 5, seed)
        trainers.append(CodeGMMN(data, code_networks(8), coder, options))
    whole, first, second = trainers
    whole.train(4)
    first.train(2)
    first.save(tmp_path)
    second.resume(tmp_path)
    assert torch.equal(second.data, first.data)
    second.train(2)
    assert torch.equal(whole.sample(6), second.sample(6))
    assert [test.step for test in second.lr_tests] == [2, 4]


def test_what_does_not_fit_is_refused():
    data = digits()
    coder = autoencoder((1, 8, 8), code_dim=10, width=8)
    with pytest.raises(InputError, match="networks must have no critic for a GMMN of codes"):
        CodeGMMN(data, bw.gan.mlp_networks(), coder)
    with pytest.raises(InputError, match="got 20 points for batch_size=100; use 20 or less"):
        train_autoencoder(data[:20], coder, num_steps=1)
