"""Batched kernelized bandits (Li & Scarlett 2022; Ma, Chen, Scarlett 2026)."""
