"""The training loop, its records and checkpoints, and the sweep that verifies a plan."""
