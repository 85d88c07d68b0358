"""Layouts of sample grids against plain indexing."""

import torch

from batchwright.gan.grid import image_grid


def test_every_image_stands_in_its_place():
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = image_grid(images, columns=3, scale=2)
    assert grid.shape == (2 * 9 + 1, 3 * 13 + 1, 3)
    for number in range(5):
        top, left = (number // 3) * 9 + 1, (number % 3) * 13 + 1
        tile = grid[top : top + 8 : 2, left : left + 12 : 2]
        wanted = ((images[number].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        assert (tile == wanted).all()
        assert (grid[top + 1 : top + 9 : 2, left + 1 : left + 13 : 2] == tile).all()
    assert (grid[::9] == 96).all()


def test_values_beyond_the_range_are_cut():
    assert image_grid(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1))[1, [1, 3], 0].tolist() == [0, 255]
