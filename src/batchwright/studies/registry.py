"""The studies by their names on the command line; a new one is enrolled here and nowhere else."""

from collections.abc import Mapping

from batchwright.studies.associative_memory.study import ASSOCIATIVE_MEMORY
from batchwright.studies.batched_bandits.study import BATCHED_BANDITS
from batchwright.studies.conditional_gradient.study import CONDITIONAL_GRADIENT
from batchwright.studies.critical_batch.study import CRITICAL_BATCH
from batchwright.studies.eoss.study import EOSS
from batchwright.studies.kalman_norm.study import KALMAN_NORM
from batchwright.studies.mmd_gan.study import MMD_GAN
from batchwright.studies.safe_pg.study import SAFE_PG
from batchwright.studies.study import Study
from batchwright.studies.train_longer.study import TRAIN_LONGER

REGISTRY: Mapping[str, Study] = {
    study.name: study
    for study in (
        EOSS,
        ASSOCIATIVE_MEMORY,
        CONDITIONAL_GRADIENT,
        TRAIN_LONGER,
        KALMAN_NORM,
        CRITICAL_BATCH,
        SAFE_PG,
        BATCHED_BANDITS,
        MMD_GAN,
    )
}
