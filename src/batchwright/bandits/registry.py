"""The bandits by name; a new one is enrolled here, which puts it into the battery of tests, the docs table and ``tune --method``."""

from collections.abc import Mapping

from batchwright.bandits.bandit import Bandit
from batchwright.bandits.bpe import BPE
from batchwright.bandits.gp_ucb import GPBUCB, GPUCB
from batchwright.bandits.robust_bpe import RobustBPE
from batchwright.bandits.robust_gp_bucb import RobustGPBUCB
from batchwright.bandits.thompson import Thompson
from batchwright.bandits.ucb_pe import UCBPE

REGISTRY: Mapping[str, type[Bandit]] = {
    each.name: each for each in (BPE, RobustBPE, GPUCB, GPBUCB, RobustGPBUCB, UCBPE, Thompson)
}
