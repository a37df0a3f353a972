"""The memory that bodies of requests may take, all of them together: each is bounded too, and there may be thousands."""

from __future__ import annotations


class Room:
    """``most`` bytes for all requests. Used from one event loop."""

    def __init__(self, most: int):
        self.left = most


class Share:
    """What one request holds of it, until `give_back`."""

    def __init__(self, room: Room):
        self._room = room
        self._held = 0

    def take(self, count: int) -> bool:
        """Takes bytes, where so many are left; returns whether it has them."""
        if count > self._room.left:
            return False
        self._room.left -= count
        self._held += count
        return True

    def give_back(self) -> None:
        """Lets others have them all."""
        self._room.left += self._held
        self._held = 0
