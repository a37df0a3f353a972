"""What schemathesis needs to know: models that exist, so that nine requests of ten get past the name."""

import random
from typing import Any

import schemathesis

ENCODERS = {"/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/api/embed", "/api/embeddings"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Names a model of the right kind."""
    if isinstance(body, dict) and "model" in body and random.random() < 0.9:
        body["model"] = "embed" if context.operation.path in ENCODERS else random.choice(("chat", "eyes"))
    return body
