"""How many pairs does one step store? An associative memory of one matrix, by SGD and by Muon, beside what the theory says.

Run: python examples/one_step_of_muon.py
"""

import batchwright as bw

ALPHA = 2.0  # item j comes with frequency j^-2
DIMS = (32, 64, 128)


def main() -> None:
    """A table: items stored by one step on the gradient of the whole law, mean of five draws of the embeddings."""
    print("dimension   SGD   (theory)   Muon   (theory)")
    for dim in DIMS:
        row = []
        for optimizer in ("sgd", "muon"):
            predicted = bw.capacity.predict(dim=dim, alpha=ALPHA, optimizer=optimizer).recovered
            memory = bw.capacity.AssociativeMemory(
                dim=dim, num_items=round(8 * dim ** (1 + 1 / (2 * ALPHA))), alpha=ALPHA, seed=range(5)
            )
            matrix = bw.capacity.one_step(memory, bw.capacity.make_update(optimizer))
            found = bw.capacity.summarise(memory, bw.capacity.recovered_items(memory, matrix))
            stored = found.prefix.double().mean()
            row += [f"{stored:7.1f}", f"({predicted:.0f})".rjust(8)]
        print(f"{dim:9d} {' '.join(row)}")
    print("The theory gives powers, without the factor before them: d^(1/4) for SGD, d^(5/4) for Muon.")


if __name__ == "__main__":
    main()
