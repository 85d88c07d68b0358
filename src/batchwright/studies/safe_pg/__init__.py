"""Adaptive batch size for safe policy gradients (Papini, Pirotta, Restelli 2017)."""
