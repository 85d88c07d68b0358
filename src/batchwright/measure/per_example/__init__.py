"""Exact norms of per-example gradients, without holding the gradients where a layer allows it."""

from batchwright.measure.per_example.grad_norms import per_example_grad_norms, per_example_sq_norms_by_layer
from batchwright.measure.per_example.recording import PerExampleNorms

__all__ = ["PerExampleNorms", "per_example_grad_norms", "per_example_sq_norms_by_layer"]
