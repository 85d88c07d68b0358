"""What all curvature products share: one interface, the model kept as it was, and graphs held between products."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.vectors import flatten, trainable
from batchwright.measure.curvature.parts import Part, make_parts, same_function

GRAPH_BYTES = 2**30
Vector = TypeVar("Vector", bound=Tensor | Sequence[Tensor])
# What one part leaves behind for its products: tensors with their graphs, as each operator needs them.
Graph = Any


class CurvatureOperator(ABC):
    """A symmetric ``D x D`` matrix at the model's present parameters, known by its products with vectors.

    The objective is the mean loss over all examples of all batches, so a short batch has its right weight. The parameters are
    those with ``requires_grad=True``, each once, in the model's order; a tied one counts once.

    A product leaves parameters, buffers, ``.grad``, modes and generators as they were. Every forward pass of a part draws the
    same random numbers, so dropout is one fixed mask. BatchNorm in train mode makes each batch one function of all its examples, whose
    curvature is well defined batch by batch, and is not cut into micro-batches.

    Inside ``with operator.held():`` the parameters must not change; graphs of as many parts as ``graph_bytes`` allows are then
    built once for all products, and a graph that is held saves about two fifths of a product. A graph alone, of the only part,
    is always held.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: One batch (a tensor, a tuple or a mapping) or several (a list or another iterable, read once).
        micro_batch_size: Examples in one forward pass; a whole batch when left out.
        graph_bytes: Memory that the graphs of several parts may hold between products, beside that of the part at work.

    Attributes:
        num_products: Products so far.
        num_examples: Examples ``N`` of the objective.

    Raises:
        InputError: If there is no example, or a batch with BatchNorm in train mode would be cut.
        TaskError: If the model has no trainable parameter; with the first product, if the loss is not one number an example.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batch | Iterable[Batch],
        *,
        micro_batch_size: int | None = None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        self._model = model
        self._loss = loss
        self._parameters = trainable(model)
        self._parts = make_parts(model, batches, micro_batch_size)
        self._graph_bytes = check_int("graph_bytes", graph_bytes, at_least=0)
        self._graphs: dict[int, Graph] = {}
        self._held_bytes = 0.0
        self._bytes_an_example: float | None = None
        self._depth = 0
        self.num_products = 0
        self.num_examples = sum(part.num_examples for part in self._parts)

    @property
    def dim(self) -> int:
        """Number of parameters ``D``."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def device(self) -> torch.device:
        """Device of flat vectors."""
        return self._parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of flat vectors: the finest of the parameters'."""
        dtype = self._parameters[0].dtype
        for parameter in self._parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        return dtype

    def matvec(self, vector: Vector) -> Vector:
        """The product with a vector, in the form in which that was given: flat ``(D,)``, or one tensor a parameter.

        Raises:
            InputError: If the vector has another size.
        """
        pieces = self._pieces(vector)
        with self.held():
            total = [torch.zeros_like(parameter) for parameter in self._parameters]
            for index in range(len(self._parts)):
                graph, held = self._graph(index)
                for sum_, term in zip(total, self._product(graph, pieces, held), strict=True):
                    if term is not None:
                        sum_ += term.detach()
        self.num_products += 1
        return cast(Vector, flatten(total).to(self.dtype) if isinstance(vector, Tensor) else total)

    def random_vector(self, generator: torch.Generator | None = None) -> Float[Tensor, " D"]:
        """A flat vector of independent standard normal numbers, drawn on the generator's device."""
        where = self.device if generator is None else generator.device
        return torch.randn(self.dim, generator=generator, dtype=self.dtype, device=where).to(self.device)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context for several products at the same parameters: graphs are held, and the model is put back at its end."""
        if self._depth:
            yield
            return
        self._depth += 1
        try:
            with preserved(self._model):
                yield
        finally:
            self._depth -= 1
            self._graphs.clear()
            self._held_bytes = 0.0

    @abstractmethod
    def _build(self, part: Part) -> Graph:
        """The graph of a part, inside its own forward context."""

    @abstractmethod
    def _product(self, graph: Graph, pieces: list[Tensor], keep: bool) -> Sequence[Tensor | None]:
        """A part's share of the product; ``keep`` when the graph is used again."""

    def _graph(self, index: int) -> tuple[Graph, bool]:
        """The graph of a part and whether it is held for further products."""
        if index in self._graphs:
            return self._graphs[index], True
        part = self._parts[index]
        if len(self._parts) == 1:
            graph = self._built(part)
            self._graphs[index] = graph
            return graph, True
        if self._graph_bytes and self._bytes_an_example is None:
            with _SavedBytes(self._parameters) as saved:
                graph = self._built(part)
            self._bytes_an_example = saved.total / part.num_examples
        else:
            graph = self._built(part)
        if not self._graph_bytes or self._bytes_an_example is None:
            return graph, False
        num_bytes = self._bytes_an_example * part.num_examples
        if self._held_bytes + num_bytes > self._graph_bytes:
            return graph, False
        self._held_bytes += num_bytes
        self._graphs[index] = graph
        return graph, True

    def _built(self, part: Part) -> Graph:
        with same_function(self._model, part):
            return self._build(part)

    def _pieces(self, vector: Tensor | Sequence[Tensor]) -> list[Tensor]:
        shapes = [parameter.shape for parameter in self._parameters]
        if isinstance(vector, Tensor):
            if vector.shape != (self.dim,):
                raise InputError(
                    f"vector must be flat with one number a trainable parameter, ({self.dim},), got {tuple(vector.shape)}"
                )
            pieces = list(vector.detach().split([shape.numel() for shape in shapes]))
        else:
            if [piece.shape for piece in vector] != shapes:
                raise InputError(
                    f"vector must hold one tensor of the shape of each of the {len(shapes)} trainable parameters, got "
                    f"{[tuple(piece.shape) for piece in vector][:8]}; give them in the order of model.parameters()"
                )
            pieces = [piece.detach() for piece in vector]
        return [
            piece.view_as(parameter).to(parameter) for piece, parameter in zip(pieces, self._parameters, strict=True)
        ]


class _SavedBytes:
    """Counts the bytes of the tensors that a graph saves, each memory once, without those of the parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self.total = 0

    def __enter__(self) -> "_SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                self.total += storage.nbytes()
        return tensor.detach()
