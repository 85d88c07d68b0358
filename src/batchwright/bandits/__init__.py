"""Tuning in few parallel rounds: batched kernelized bandits with a bound on what they return."""
