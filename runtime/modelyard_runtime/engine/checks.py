"""What an engine refuses before it begins: computing it would fail, or fail others."""

from modelyard_runtime.engine.base import GenerationRequest, InvalidTokens, RequestTooLarge


def check_size(request: GenerationRequest, longest: int) -> None:
    """Raises RequestTooLarge when there is no prompt, or prompt and answer together may exceed ``longest`` tokens."""
    prompt, new = len(request.prompt_token_ids), request.sampling.max_tokens
    if not prompt:
        raise RequestTooLarge("the prompt is empty: there is nothing to go on from")
    if prompt + new > longest:
        raise RequestTooLarge(
            f"a prompt of {prompt} tokens and {new} new tokens exceed this model's limit of {longest} tokens: "
            "shorten the prompt, lower max_tokens, or raise engine.maxModelLength"
        )


def check_tokens(request: GenerationRequest, vocabulary: int) -> None:
    """Raises InvalidTokens when the prompt or a bias names a token outside of the vocabulary."""
    for what, ids in (("prompt", request.prompt_token_ids), ("logit_bias", request.sampling.logit_bias or (0,))):
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise InvalidTokens(f"{what}: this model's token ids are 0 to {vocabulary - 1}, and {min(ids)} to {max(ids)} were given")
