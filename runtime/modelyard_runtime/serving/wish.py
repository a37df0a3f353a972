"""What endpoints and the service of speech to text say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard_runtime.speech.base import FALLBACK, Task
from modelyard_runtime.speech.sensitivity import Sensitivity


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. ``language`` is None where it shall be heard; ``temperature`` 0 falls back to higher ones by itself."""

    language: str | None = None
    translate: bool = False
    prompt: str = ""
    temperature: float = 0.0
    words: bool = False
    sensitivity: Sensitivity = Sensitivity()  # noqa: RUF009 - frozen

    def task(self, language: str) -> Task:
        """Returns how the model is to read it."""
        temperatures = (self.temperature,) if self.temperature else FALLBACK
        return Task(language, self.translate, self.prompt, temperatures, self.words)


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of a recording before it is read: its length in seconds, its language by code and by name, the tokens that go in."""

    seconds: float
    language: str
    language_name: str
    audio_tokens: int
    prompt_tokens: int
