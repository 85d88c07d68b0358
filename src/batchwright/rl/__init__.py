"""Safe policy gradients: trajectories an update and step size chosen together, with a guarantee of improvement.

Sources: Papini, Pirotta, Restelli (2017), *Adaptive batch size for safe policy gradients*, NeurIPS; Papini, Pirotta, Restelli (2022),
*Smoothing policies and safe policy gradients*, Machine Learning 111.
"""

from batchwright.rl.advice import BatchAdvice, batch_size_advice
from batchwright.rl.cart_pole import CartPoleSampler
from batchwright.rl.environments import make_sampler
from batchwright.rl.episodes import EnvironmentSpec, Episodes, Sampler
from batchwright.rl.estimators import GradientEstimate, estimate_gradient, trajectory_gradients
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.guarantee import Guarantee
from batchwright.rl.gym_sampler import GymSampler
from batchwright.rl.lqg import LQG
from batchwright.rl.options import SafeOptions
from batchwright.rl.policies import Policy, Smoothing
from batchwright.rl.safe_policy_gradient import SafePolicyGradient, SafeRun
from batchwright.rl.softmax import SoftmaxPolicy
from batchwright.rl.step_choice import StepChoice, optimal_step
from batchwright.rl.update_record import UpdateRecord

__all__ = [
    "LQG",
    "BatchAdvice",
    "CartPoleSampler",
    "EnvironmentSpec",
    "Episodes",
    "GaussianPolicy",
    "GradientEstimate",
    "Guarantee",
    "GymSampler",
    "Policy",
    "SafeOptions",
    "SafePolicyGradient",
    "SafeRun",
    "Sampler",
    "Smoothing",
    "SoftmaxPolicy",
    "StepChoice",
    "UpdateRecord",
    "batch_size_advice",
    "estimate_gradient",
    "make_sampler",
    "optimal_step",
    "trajectory_gradients",
]
