"""On the role of batch size in stochastic conditional gradient methods (Islamov et al. 2026)."""
