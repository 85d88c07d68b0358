"""A generator of digits in seconds, a picture of what it makes, and a test that tells whether its samples differ from real ones.

Run: python examples/digits_gan.py
"""

from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

import batchwright as bw


def main(picture: Path = Path("runs/digits_gan.png")) -> None:
    """Train on 1,200 digits; the other 597 are what samples are compared with."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32)[torch.randperm(1797)] / 8 - 1
    train, held_out = images[:1200], images[1200:]
    options = bw.gan.GanOptions(batch_size=64, lr=1e-3, clip=0.1, warmup_critic_steps=5)
    trainer = bw.gan.MMDGAN(train, bw.gan.mlp_networks(), options, seed=0)
    kernel = bw.gan.median_gaussians(held_out)
    for steps, total in ((10, 10), (90, 100), (300, 400)):
        trainer.train(steps)
        estimate = bw.gan.mmd2(held_out, trainer.sample(597), kernel)
        print(f"{total} steps: squared MMD to digits that were held out {float(estimate):.4f}")
    generator = torch.Generator().manual_seed(0)
    for name, sample in (("real ones", train[:597]), ("samples", trainer.sample(597))):
        found = bw.gan.two_sample_test(held_out, sample, kernel, generator=generator)
        print(f"held-out digits against {name}: p = {found.p_value:.3f}")
    samples = F.pad(trainer.sample(64).clamp(-1, 1).reshape(8, 8, 8, 8), (1, 1, 1, 1))  # a grey frame around each
    rows = samples.transpose(1, 2).reshape(80, 80)
    picture.parent.mkdir(parents=True, exist_ok=True)
    grid = Image.fromarray(((rows + 1) * 127.5).byte().numpy())
    grid.resize((640, 640), Image.Resampling.NEAREST).save(picture)
    print(f"64 samples: {picture}")


if __name__ == "__main__":
    main()
