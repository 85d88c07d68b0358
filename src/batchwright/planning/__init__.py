"""Measurements and a budget in, a plan with intervals and reasons out."""
