"""A number that tells a framework's own ``position % number == 0`` where a step begins and ends, wherever it began to be counted."""


class StepsFrom(int):
    """The accumulation count, with the place where the present step begins.

    Frameworks step where ``micro_batches_so_far % count == 0``, which is right for a count that never changes. After a change in the
    middle of an epoch the remainder would be off, gradients would be stepped with too early and never be set to zero. As the right
    operand of ``%`` this number counts from the beginning of the step; in everything else it is the plain number.

    Example:
        >>> count = StepsFrom(3, first=4)
        >>> [position % count == 0 for position in range(4, 9)], count, 9 // count
        ([True, False, False, True, False], 3, 3)
    """

    first: int

    def __new__(cls, count: int, *, first: int = 0) -> "StepsFrom":
        """The number ``count`` for a step whose first micro-batch has the position ``first``."""
        number = super().__new__(cls, count)
        number.first = first
        return number

    def __rmod__(self, position: int) -> int:
        """What is left of the position, counted from the beginning of the step."""
        return (int(position) - self.first) % int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Copied or written to disk it is the plain number, so that nobody needs this library to read it."""
        return int, (int(self),)
