"""All benchmarks that take minutes, one after the other: ``make bench``.

The sweeps behind kappa and the regrets take an hour and more and have targets of their own (``make kappa``, ``make regret``).
``make bench`` installs the peers into the environment that it runs in; a peer that is missing is left out of the tables.
"""

import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

NAMES = (
    "engine_overhead",
    "noise_overhead",
    "per_example_norms",
    "curvature",
    "batch_sharpness",
    "monitor_overhead",
    "memory_ceiling",
    "muon",
    "bandits",
    "tuning",
    "knee",
    "norm_layers",
    "safe_pg",
    "coverage",
    "rl_rollouts",
    "rl_cart_pole",
    "rl_cart_pole_peers",
    "mmd",
)
PEERS = (
    "accelerate",
    "backpack-for-pytorch",
    "botorch",
    "curvlinops-for-pytorch",
    "gpytorch",
    "geomloss",
    "hessian-eigenthings",
    "lightning",
    "opacus",
    "optuna",
    "pyhessian",
    "pytorch-optimizer",
    "ray",
    "stable-baselines3",
)


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def main() -> None:
    print("torch " + version("torch") + "; peers: " + ", ".join(installed(package) for package in PEERS), flush=True)
    failed = []
    for name in NAMES:
        if find_spec(f"benchmarks.{name}") is None:
            continue
        print(f"\n## {name}\n", flush=True)
        sys.argv = [name]
        try:
            runpy.run_module(f"benchmarks.{name}", run_name="__main__")
        except Exception as error:  # one benchmark that fails does not stop the others
            failed.append(name)
            print(f"failed: {type(error).__name__}: {error}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
