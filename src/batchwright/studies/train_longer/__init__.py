"""Hoffer et al. (2017): large batches that generalise, and how far weights travel."""
