"""The recipes that are compared: what each one adds to a large batch.

Source: Hoffer, Hubara & Soudry (2017), arXiv:1705.08741, table 1, whose columns add one ingredient after another; and the official code
for clipping, momentum and the phases of the learning rate.
"""

from dataclasses import dataclass

MOMENTUM = 0.9
MAX_GRAD_NORM = 5.0
# The learning rate is divided by ten at these shares of the updates, however many there are: the phases keep their updates.
MILESTONES = (0.5, 0.75)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One column of the table.

    Attributes:
        name: In records and files.
        title: In tables and figures.
        large: The large batch instead of the small one.
        scaled: Learning rate times the root of the ratio of batch sizes.
        ghost: Ghost batch norm with ghosts of the small batch's size.
        longer: As many updates as the small batch makes, instead of as many epochs.
        noise: Kind of multiplicative noise that gives the gradient the small batch's covariance; empty for none.
    """

    name: str
    title: str
    large: bool = True
    scaled: bool = False
    ghost: bool = False
    longer: bool = False
    noise: str = ""


ARMS = {
    arm.name: arm
    for arm in (
        Arm(name="sb", title="SB", large=False),
        Arm(name="lb", title="LB"),
        Arm(name="lr", title="+LR", scaled=True),
        Arm(name="gbn", title="+GBN", scaled=True, ghost=True),
        Arm(name="ra", title="+RA", scaled=True, ghost=True, longer=True),
        Arm(name="ra-no-gbn", title="+RA, no GBN", scaled=True, longer=True),
        Arm(name="noise", title="noise", ghost=True, noise="normal"),
        Arm(name="noise-gamma", title="noise ≥ 0", ghost=True, noise="gamma"),
        Arm(name="noise-ra", title="noise +RA", ghost=True, longer=True, noise="normal"),
    )
}
PUBLISHED_ARMS = ("sb", "lb", "lr", "gbn", "ra")
