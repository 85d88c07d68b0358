"""The kernel inception distance beside torch-fidelity's function on the same features and subsets.

    pip install --no-deps torch-fidelity tqdm      (in an environment of its own)
    python -m benchmarks.kid_parity

torch-fidelity asks for torchvision, whose release on the package index breaks a CPU build of torch, and needs it for its networks
alone; empty modules stand in for it here. It is in no extra of this library and in no list of ``make bench``.
"""

import importlib.machinery
import sys
import types

import numpy as np
import torch

from batchwright.gan import kid

ABSENT = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.models",
    "torchvision.datasets",
    "PIL",
    "PIL.Image",
)
SEED, NUM_SUBSETS, SUBSET_SIZE = 2020, 5, 100


class Empty(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in() -> None:
    for name in ABSENT:
        module = Empty(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__, module.__version__ = [], "0"
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def main() -> None:
    stand_in()
    from torch_fidelity.metric_kid import kid_features_to_metric

    generator = torch.Generator().manual_seed(0)
    print("| features | points | subsets | torch-fidelity | ours | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dim, num in ((64, 300), (2048, 400)):
        real = torch.randn(num, dim, generator=generator).relu()
        generated = (torch.randn(num, dim, generator=generator) + 0.1).relu()
        for subsets, size in ((1, num), (NUM_SUBSETS, SUBSET_SIZE)):
            theirs = kid_features_to_metric(
                real, generated, kid_subsets=subsets, kid_subset_size=size, rng_seed=SEED, verbose=False
            )["kernel_inception_distance_mean"]
            # Its own choice of subsets: one generator of NumPy, first the real points, then the generated ones.
            rng = np.random.RandomState(SEED)
            ours = []
            for _ in range(subsets):
                first, second = (rng.choice(num, size, replace=False) for _ in range(2))
                ours.append(kid(real[first], generated[second], num_subsets=1, subset_size=size).value)
            value = float(np.mean(ours))
            print(f"| {dim} | {num} | {subsets} of {size} | {theirs:.8f} | {value:.8f} | {abs(theirs - value):.1e} |")


if __name__ == "__main__":
    main()
