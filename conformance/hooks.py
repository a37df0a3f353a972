"""What schemathesis needs to know: models that exist, so that nine requests of ten get past the name, and a file that is a recording."""

import io
import random
import wave
from typing import Any

import schemathesis

#: Models by the end of the path that they answer; all others are of chats.
MODELS = {
    "embeddings": ("embed",),
    "embed": ("embed",),
    "rerank": ("judge", "embed"),
    "score": ("judge", "embed"),
    "classify": ("moods",),
    "transcriptions": ("ears",),
    "translations": ("ears",),
    "show": ("embed", "chat", "ears", "moods"),
}
CHATS = ("chat", "eyes")
#: How the paths whose answers may be streams of events are asked for one.
STREAMED: dict[str, Any] = {
    "/v1/chat/completions": True,
    "/v1/completions": True,
    "/v1/responses": True,
    "/v1/audio/transcriptions": "true",
    "/v1/audio/translations": "true",
}


def recording() -> bytes:
    """Returns a tenth of a second of noise."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", "NONE"))
        out.writeframes(random.Random(1).randbytes(3_200))
    return file.getvalue()


RECORDING = recording()


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Names a model of the right kind, gives forms a recording, and has a third of the answers streamed that may be."""
    path = context.operation.path
    if isinstance(body, dict) and "model" in body and random.random() < 0.9:
        body["model"] = random.choice(MODELS.get(path.rpartition("/")[2], CHATS))
        if "file" in body and path.startswith("/v1/audio/"):  # elsewhere it is a field that there is not, in JSON
            body["file"] = RECORDING
        if path in STREAMED and random.random() < 1 / 3:
            body["stream"] = STREAMED[path]
    return body
