"""All benchmarks that take minutes, one after the other: ``make bench``.

The sweeps behind kappa and the regrets take an hour and more and have targets of their own (``make kappa``, ``make regret``).
Peers (opacus, backpack-for-pytorch) are compared with where they are installed in the same environment.
"""

import runpy
import sys

NAMES = ("noise_overhead", "per_example_norms", "memory_ceiling", "knee", "coverage")


def main() -> None:
    failed = []
    for name in NAMES:
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
