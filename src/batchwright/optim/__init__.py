"""Optimizers that step in a norm of the matrix: Muon and Scion, and the polar factor that they are made of."""
