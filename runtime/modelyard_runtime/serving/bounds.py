"""Bounds on what a generation request may hold and ask for, and the words for what passes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.serving.limiter import CHARACTERS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds in tokens; ``context`` holds prompt and answer, ``vocabulary`` is above every token id.

    Every method raises InvalidRequest.
    """

    context: int
    vocabulary: int
    prompt: int | None = None
    answer: int | None = None

    def check_characters(self, count: int, param: str) -> None:
        """Refuses what cannot fit before it is tokenised."""
        if count > self.context * CHARACTERS_PER_TOKEN:
            raise _too_long(
                f"This model's maximum context length is {self.context} tokens, and {param} has {count} characters. Shorten it.", param
            )

    def check_images(self, tokens: int, param: str) -> None:
        """Refuses images that cannot fit before more of them are read; ``param`` is the last of them."""
        if tokens > self.context:
            raise _too_long(
                f"This model's maximum context length is {self.context} tokens, and the images up to '{param}' take {tokens}. "
                "Send fewer or smaller ones.",
                param,
            )

    def check_tokens(self, tokens: Collection[int], param: str, remedy: str) -> None:
        """Refuses tokens that the model does not have."""
        highest = max(tokens, default=0)
        if highest >= self.vocabulary:
            raise InvalidRequest(
                f"Token ids of this model are below {self.vocabulary}, and '{param}' has {highest}. {remedy}",
                param=param,
                code="invalid_value",
            )

    def room(
        self,
        prompt: Sequence[int],
        wanted: int | None,
        *,
        prompt_param: str,
        wanted_param: str = "max_tokens",
        default: int | None = None,
    ) -> int:
        """Returns how many tokens the answer may have: ``wanted``, else ``default``, else all that are left."""
        self._check_prompt(prompt, prompt_param)
        if wanted is not None and self.answer is not None and wanted > self.answer:
            raise InvalidRequest(
                f"This server gives {self.answer} new tokens at most. Lower '{wanted_param}'.", param=wanted_param, code="invalid_value"
            )
        left = self.context - len(prompt)
        needed = 1 if wanted is None else wanted
        if left < needed:
            asked = f"{len(prompt)} in {prompt_param}" + (f", {wanted} in the completion" if wanted else "")
            raise _too_long(
                f"This model's maximum context length is {self.context} tokens, and you asked for {len(prompt) + needed} tokens ({asked}). "
                f"Shorten {prompt_param}{f' or lower {wanted_param}' if wanted else ''}.",
                prompt_param,
            )
        return min(left, (default or left) if wanted is None else wanted, self.answer or left)

    def _check_prompt(self, prompt: Sequence[int], param: str) -> None:
        if not prompt:
            raise InvalidRequest(f"'{param}' has no tokens. Send at least one.", param=param, code="invalid_value")
        if self.prompt is not None and len(prompt) > self.prompt:
            raise _too_long(
                f"This server takes prompts of {self.prompt} tokens at most, and this one has {len(prompt)}. Shorten it.", param
            )


def _too_long(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="context_length_exceeded")
