"""Reproduction of Wang et al. (2018), *Kalman Normalization*."""
