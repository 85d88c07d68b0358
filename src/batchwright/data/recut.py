"""Batches of one size cut anew into batches of any other, in the same order."""

from collections import deque
from collections.abc import Iterator

from batchwright.core.batches import Batch, batch_length, cut_batch, join_batches


class Recut:
    """A queue of examples that batches are pulled into and batches of any size are taken from.

    A batch taken whole is the batch that was pulled, a part of it is a view, and only one that spans several is copied.

    Args:
        chunks: The batches to pull.
    """

    def __init__(self, chunks: Iterator[Batch]) -> None:
        self._chunks = chunks
        self._queue: deque[tuple[Batch, int]] = deque()
        self._length = 0
        self._taken: list[tuple[Batch, int]] | None = None
        self.ended = False

    def fill(self, num_examples: int) -> int:
        """Pull until ``num_examples`` are there or there are no more; the number of examples that are there."""
        while self._length < num_examples and not self.ended:
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self.ended = True
                break
            length = batch_length(chunk)
            if length:
                self._queue.append((chunk, length))
                self._length += length
        return self._length

    def take(self, num_examples: int) -> tuple[Batch, int]:
        """The next examples as one batch, with their number: fewer than asked for where there are no more.

        Raises:
            InputError: If the batches cannot be cut or joined.
        """
        left = wanted = min(num_examples, self.fill(num_examples))
        pieces = []
        while left:
            chunk, length = self._queue.popleft()
            if length > left:
                self._queue.appendleft((cut_batch(chunk, left, length), length - left))
                chunk, length = cut_batch(chunk, 0, left), left
            pieces.append((chunk, length))
            left -= length
            self._length -= length
        if self._taken is not None:
            self._taken += pieces
        return (join_batches([chunk for chunk, _ in pieces]) if pieces else None), wanted

    def peek(self) -> Batch:
        """The next example as a batch of one, which stays where it is."""
        self.fill(1)
        return cut_batch(self._queue[0][0], 0, 1)

    def skip(self, num_examples: int) -> int:
        """Leave out the next examples; the number of those that were there."""
        left = num_examples
        while left and self.fill(1):
            left -= self.take(min(left, self._length))[1]
        return num_examples - left

    def mark(self) -> None:
        """Keep what is taken from now on, for `rewind`."""
        self._taken = []

    def unmark(self) -> None:
        """Keep it no longer."""
        self._taken = None

    def rewind(self) -> None:
        """Put back what was taken since `mark`."""
        assert self._taken is not None
        self._queue.extendleft(reversed(self._taken))
        self._length += sum(length for _, length in self._taken)
        self._taken = []
