"""Memory that requests take, all of them together: what each takes is bounded too, and there may be thousands."""

from __future__ import annotations


class Room:
    """``most`` bytes for all requests. Used from one event loop."""

    def __init__(self, most: int):
        self.most = self.left = most


class Share:
    """What one request holds of it, until `give_back`."""

    def __init__(self, room: Room):
        self._room = room
        self.held = 0

    @property
    def most(self) -> int:
        """Bytes that there are for all."""
        return self._room.most

    def take(self, count: int) -> bool:
        """Takes bytes, where so many are left; returns whether it has them."""
        if count > self._room.left:
            return False
        self._room.left -= count
        self.held += count
        return True

    def give_back(self, count: int | None = None) -> None:
        """Lets others have so many of them, or all."""
        count = self.held if count is None else count
        self._room.left += count
        self.held -= count
