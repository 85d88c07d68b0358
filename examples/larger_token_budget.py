"""Settings tuned at a hundred million tokens, carried to a billion and to ten: batch, sequence, step size, by the rule for Scion.

Run: python examples/larger_token_budget.py
"""

import batchwright as bw


def main() -> None:
    """From T to r T tokens: tokens a step times r^(2/3), the step size times r^(-1/3)."""
    base = bw.TokenBudget(batch_size=64, sequence_length=512, lr=1e-3, tokens=100e6)
    print(f"tuned:  {told(base)}")
    for tokens in (1e9, 10e9):
        carried = bw.planning.token_budget(base=base, tokens=tokens, multiple_of=8)
        print(f"batch:  {told(carried)}")
        longer = bw.planning.token_budget(base=base, tokens=tokens, grow="batch-and-sequence", multiple_of=8)
        print(f"both:   {told(longer)}")


def told(budget: bw.TokenBudget) -> str:
    """One line."""
    steps = budget.tokens / (budget.batch_size * budget.sequence_length)
    return (
        f"{budget.tokens:14,.0f} tokens: {budget.batch_size:5d} sequences of {budget.sequence_length:5d}, step size {budget.lr:.2e}, "
        f"{steps:,.0f} steps"
    )


if __name__ == "__main__":
    main()
