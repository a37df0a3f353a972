"""Steps that only decode, replayed from CUDA graphs: one launch in place of hundreds, which on a GPU take longer than what they launch.

A graph is a recording of kernels over fixed addresses and shapes. So there is one for each of a few numbers of rows, in powers of two; a
step takes the smallest that it fits, and rows without a sequence write to the page that is nobody's. All that a step is goes into one
tensor of integers, from which the recording itself works out the rest. Prompts, guesses, adapters and images take the usual way.

Recording is one call (`Capture`): where it is `called`, nothing is recorded and the same code simply runs, which is how it is tested.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch

from modelyard_runtime.engine.attention import AttentionStep, attending
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.layout import Span, StepLayout
from modelyard_runtime.engine.paged import PagedCache, PagePlan
from modelyard_runtime.engine.paged_attention import Part
from modelyard_runtime.engine.scheduler import Work
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.storage import Cache
from modelyard_runtime.models.loading import LoadedModel
from modelyard_runtime.models.placement import is_spread

logger = logging.getLogger(__name__)

Run = Callable[[], torch.Tensor]

#: Rows of the largest graph; larger steps are worth their launches.
_MOST_ROWS = 256
#: Device memory that recording leaves free, in bytes.
_RESERVE = 1 << 30
#: What a row is: its token, its position, and its sequence's pages.
_TOKEN, _POSITION, _PAGES = 0, 1, 2


class Capture(Protocol):
    """Makes a recording of what ``run`` does; calling that does it again, on the same tensors."""

    def __call__(self, run: Run) -> Run:
        """Returns the recording. Raises RuntimeError when something in it cannot be recorded."""
        ...

    def has_room(self) -> bool:
        """Whether there is memory for one more."""
        ...


class Called:
    """Records nothing: what is asked for is done."""

    def __call__(self, run: Run) -> Run:
        """Returns what it is given."""
        return run

    def has_room(self) -> bool:
        """It takes none."""
        return True


class CudaCapture:
    """CUDA graphs that share one pool of memory: they never run at once."""

    def __init__(self, device: torch.device):
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """Runs once as usual, so that libraries make what they keep, and once into a graph."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, of other models, may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                out = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay

    def has_room(self) -> bool:
        """Whether the device has more than the reserve."""
        return torch.cuda.mem_get_info(self._device)[0] > _RESERVE


class Graph:
    """The step of ``rows`` rows; ``state`` [rows, 2 + width] is what they are, int32."""

    def __init__(self, model: Any, cache: PagedCache, device: torch.device, *, rows: int, width: int, capture: Capture):
        self._model = model
        self._cache = cache
        self._layout = StepLayout.of([Span(row, 0, 1) for row in range(rows)], device)
        nobody = [0, 0, *[cache.pages] * width]
        self._empty = torch.tensor([nobody] * rows, dtype=torch.int32)
        self._state = self._empty.to(device)
        table = [cache.pages] * width
        self._part = Part.of(0, lengths=[1] * rows, used=[width * cache.page] * rows, tables=[table] * rows, page=cache.page, device=device)
        self._replay = capture(self._run)

    def forward(self, rows: list[list[int]]) -> tuple[torch.Tensor, list[bool]]:
        """Returns the scores [rows, vocabulary], good until the next step, and whose keys or values were not numbers."""
        state = self._empty.clone()
        state[: len(rows)] = torch.tensor(rows, dtype=torch.int32)
        self._state.copy_(state)
        logits = self._replay()
        return logits[: len(rows)], self._layout.spoiled()[: len(rows)]

    def _run(self) -> torch.Tensor:
        """The step, without a look at what is in the tensors."""
        layout, page = self._layout, self._cache.page
        positions = self._state[:, _POSITION]
        layout.positions.copy_(positions)
        layout.sums.clear()
        self._part.tables.copy_(self._state[:, _PAGES:])
        torch.add(positions, 1, out=self._part.used)
        pages = self._state[:, _PAGES:].gather(1, (layout.positions // page)[:, None])[:, 0]
        self._cache.use(layout, PagePlan(pages.long() * page + layout.positions % page, (self._part,)))
        with attending(AttentionStep(self._cache, layout)):
            tokens = self._state[None, :, _TOKEN].long()
            logits: torch.Tensor = self._model(input_ids=tokens, position_ids=layout.positions[None], use_cache=False).logits
        return logits[0]


class Graphs:
    """The graphs of an engine, recorded at the first step that only decodes, which warm-up takes. ``width`` is in pages."""

    def __init__(self, model: Any, cache: PagedCache, device: torch.device, *, rows: int, width: int, capture: Capture):
        self._sizes = buckets(rows)
        self._cache = cache
        self._width = width
        self._make: Callable[[int], Graph] = lambda size: Graph(model, cache, device, rows=size, width=width, capture=capture)
        self._capture = capture
        self._graphs: dict[int, Graph] | None = None

    def serves(self, work: list[Work]) -> bool:
        """Whether a step can be replayed. Records all graphs when asked first for one that could."""
        if not all(is_plain_decode(item) for item in work) or len(work) > self._sizes[-1]:
            return False
        if self._graphs is None:
            self._graphs = self._recorded()
        return any(size >= len(work) for size in self._graphs)

    def forward(self, work: list[Work]) -> tuple[torch.Tensor, list[bool]]:
        """Returns what `Graph.forward` does, for work that `serves` said yes to."""
        assert self._graphs is not None
        graph = self._graphs[min(size for size in self._graphs if size >= len(work))]
        spans = [item.span for item in work]
        return graph.forward(
            [[item.tokens[0], span.start, *self._cache.row(span.slot, self._width)] for item, span in zip(work, spans, strict=True)]
        )

    def _recorded(self) -> dict[int, Graph]:
        """Returns the graphs by size, the largest first made, whose memory the others use again; those that can be made."""
        made: dict[int, Graph] = {}
        for size in reversed(self._sizes):
            if not self._capture.has_room():
                logger.warning("CUDA graphs: no memory for steps of up to %d rows", size)
                continue
            try:
                made[size] = self._make(size)
            except torch.OutOfMemoryError:
                logger.warning("CUDA graphs: memory ran out at steps of %d rows", size)
            except RuntimeError as error:
                logger.warning("CUDA graphs are off: a step of this model cannot be recorded: %s", error)
                return {}
        logger.info("CUDA graphs: steps of %s rows", ", ".join(map(str, sorted(made))) or "no")
        return made


def graphs_for(model: LoadedModel, cache: Cache, capacity: Capacity, settings: EngineSettings) -> Graphs | None:
    """Returns an engine's graphs; None where they are off, there is no single GPU, or the cache is not in pages."""
    if settings.cuda_graphs == "off" or model.device.type != "cuda" or is_spread(model.model) or not isinstance(cache, PagedCache):
        return None
    width = -(-capacity.length // cache.page)
    return Graphs(model.model, cache, model.device, rows=capacity.sequences, width=width, capture=CudaCapture(model.device))


def buckets(rows: int) -> list[int]:
    """Returns the numbers of rows that there are graphs for: powers of two, up to what holds ``rows``, and never more than 256."""
    most = min(rows, _MOST_ROWS)
    return [size for size in (1 << n for n in range(most.bit_length())) if size < most] + [most]


def is_plain_decode(item: Work) -> bool:
    """Whether a sequence's part in a step is its newest token alone, computed by the model alone."""
    sequence = item.sequence
    alone = item.span.length == 1 and item.samples and not sequence.scores_prompt
    return alone and sequence.adapter is None and sequence.request.media is None
