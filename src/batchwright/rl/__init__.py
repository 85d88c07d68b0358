"""Safe policy gradients: trajectories an update and step size chosen together, with a guarantee of improvement.

Sources: Papini, Pirotta, Restelli (2017), *Adaptive batch size for safe policy gradients*, NeurIPS; Papini, Pirotta, Restelli (2022),
*Smoothing policies and safe policy gradients*, Machine Learning 111.
"""

from batchwright.rl.episodes import EnvironmentSpec, Episodes, Sampler
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.policies import Policy, Smoothing
from batchwright.rl.softmax import SoftmaxPolicy
from batchwright.rl.step_choice import StepChoice, optimal_step

__all__ = [
    "EnvironmentSpec",
    "Episodes",
    "GaussianPolicy",
    "Policy",
    "Sampler",
    "Smoothing",
    "SoftmaxPolicy",
    "StepChoice",
    "optimal_step",
]
