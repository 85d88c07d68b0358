"""Momentum Further Constrains Sharpness at the Edge of Stochastic Stability: boundary, linear model, plateaus, catapults."""
