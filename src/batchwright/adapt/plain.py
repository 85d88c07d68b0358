"""The controllers that stand alone, by their names; those that wrap another are added in `registry`."""

from collections.abc import Mapping

from batchwright.adapt.adascale import AdaScale
from batchwright.adapt.cabs import Cabs
from batchwright.adapt.dive_batch import DiveBatch
from batchwright.adapt.fixed import Fixed
from batchwright.adapt.geometric import Geometric
from batchwright.adapt.inner_product_test import InnerProductTest
from batchwright.adapt.noise_scale import NoiseScale
from batchwright.adapt.norm_test import NormTest
from batchwright.adapt.restarted_budget import RestartedBudget
from batchwright.adapt.schedule import Schedule
from batchwright.adapt.seesaw import Seesaw
from batchwright.adapt.simigrad import SimiGrad

PLAIN: Mapping[str, type] = {
    "adascale": AdaScale,
    "cabs": Cabs,
    "dive-batch": DiveBatch,
    "fixed": Fixed,
    "geometric": Geometric,
    "inner-product-test": InnerProductTest,
    "noise-scale": NoiseScale,
    "norm-test": NormTest,
    "restarted-budget": RestartedBudget,
    "schedule": Schedule,
    "seesaw": Seesaw,
    "simigrad": SimiGrad,
}
