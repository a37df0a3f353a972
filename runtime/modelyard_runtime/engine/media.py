"""Images inside a prompt, as the decoder takes them: feature rows in place of token embeddings, and positions in three dimensions."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Media:
    """The images of one prompt.

    ``positions`` [3, prompt tokens] are rotary positions (time, height, width); ``rows`` [n] are the indices of the prompt's tokens that
    stand for image patches, ascending; ``features`` [n, hidden] replace their embeddings, and each of ``deepstack`` [n, hidden] is added
    to them after one of the first layers. ``digest`` tells images apart where tokens do not.
    """

    positions: torch.Tensor
    rows: torch.Tensor
    features: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    digest: bytes

    @property
    def offset(self) -> int:
        """What is added to a token's index behind the prompt to get its position: images take fewer positions than tokens."""
        return int(self.positions.max()) + 1 - self.positions.shape[1]

    def positions_of(self, start: int, end: int) -> torch.Tensor:
        """Returns the rotary positions [3, end - start] of tokens [start, end), which may lie behind the prompt."""
        behind = torch.arange(max(start, self.positions.shape[1]), max(end, self.positions.shape[1])) + self.offset
        return torch.cat((self.positions[:, start:end], behind.expand(3, -1)), dim=1)

    def within(self, start: int, end: int) -> slice:
        """Returns which of the feature rows lie in tokens [start, end)."""
        first, last = torch.searchsorted(self.rows, torch.tensor([start, end])).tolist()
        return slice(first, last)
