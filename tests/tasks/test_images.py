"""The image networks against published sizes, and the image files against what they must be."""

import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.errors import DataError, InputError
from batchwright.core.vectors import num_parameters
from batchwright.tasks import check_task, load_task
from batchwright.tasks.images import lenet, mnist_cnn
from batchwright.tasks.resnet import ResNet


@pytest.mark.parametrize(("depth", "size"), [(8, 75_290), (20, 269_722), (56, 853_018)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_residual_networks_have_the_published_sizes(depth, size, norm):
    # He et al. (2016), table 6: 0.27 million at depth 20, 0.85 million at 56.
    assert num_parameters(ResNet(depth=depth, norm=norm)) == size


def test_a_residual_network_with_zero_blocks_is_its_shortcuts():
    model = ResNet(depth=8).eval()
    for block in model.blocks:
        torch.nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stem = torch.relu(model.norm(model.stem(images)))
    # Two stages halve the image by taking every second pixel, and the new channels are zeros.
    kept = torch.cat([stem[:, :, ::4, ::4].mean(dim=(2, 3)), torch.zeros(2, 48)], dim=1)
    torch.testing.assert_close(model(images), model.head(kept))


@pytest.mark.parametrize(("norm", "mixes"), [("batch", True), ("group", False)])
def test_only_batch_norm_mixes_the_examples_of_a_batch(norm, mixes):
    torch.manual_seed(0)
    model = ResNet(depth=8, norm=norm)
    images = torch.randn(4, 3, 16, 16)
    assert torch.allclose(model(images)[:2], model(images[:2]), atol=1e-5) != mixes


def test_a_wrong_depth_or_norm_is_refused():
    with pytest.raises(InputError, match=r"depth must be 6 n \+ 2, as 8, 14, 20, .* got 18"):
        ResNet(depth=18)
    with pytest.raises(InputError, match="norm must be one of batch, group, got 'layer'"):
        ResNet(norm="layer")


def test_lenet_has_its_stated_size():
    assert num_parameters(lenet()) == 85_822


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype("u1").tobytes()))


def test_mnist_is_standardised_by_its_training_part(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, length in (("train", 64), ("t10k", 16)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (length, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(length) % 10)
    task = mnist_cnn(tmp_path)
    pixels = task.train.tensors[0]
    assert pixels.shape == (64, 1, 28, 28)
    assert abs(float(pixels.mean())) < 1e-5
    assert abs(float(pixels.std()) - 1) < 1e-5
    assert len(task.evaluation) == 16
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(15) % 10)
    with pytest.raises(DataError, match=r"must be \(N, H, W\) and \(N,\), got \(16, 28, 28\) and \(15,\)"):
        mnist_cnn(tmp_path)


def write_cifar(path, length):
    rng = np.random.default_rng(length)
    np.savez(
        path, x=rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8), y=np.arange(length, dtype=np.uint8) % 10
    )


@pytest.mark.parametrize(("variant", "norm"), [("8", nn.BatchNorm2d), ("8-group", nn.GroupNorm)])
def test_cifar_is_standardised_by_channel_and_has_the_norm_of_its_variant(tmp_path, variant, norm):
    (tmp_path / "cifar10").mkdir()
    write_cifar(tmp_path / "cifar10/cifar10-train-20k.npz", 64)
    write_cifar(tmp_path / "cifar10/cifar10-test-5k.npz", 16)
    task = load_task(f"cifar-resnet:{variant}", data_root=tmp_path)
    pixels = task.train.tensors[0]
    assert pixels.shape == (64, 3, 32, 32)
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3)), torch.ones(3), rtol=0, atol=1e-5)
    with np.load(tmp_path / "cifar10/cifar10-train-20k.npz") as archive:
        first = torch.from_numpy(archive["x"][0, :, :, 2]).float()  # the third channel keeps its place
    assert torch.corrcoef(torch.stack([first.flatten(), pixels[0, 2].flatten()]))[0, 1] > 0.9999
    model = task.make_model(0)
    assert num_parameters(model) == 75_290
    assert sum(isinstance(module, norm) for module in model.modules()) == 7
    check_task(task)


def test_missing_data_is_told_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"data file must be there, got '.*mnist/train-images-idx3-ubyte.gz'"):
        mnist_cnn(tmp_path)
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    with pytest.raises(DataError, match="got neither --data-root nor BATCHWRIGHT_DATA"):
        mnist_cnn()
