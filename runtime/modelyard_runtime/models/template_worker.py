"""The process in which chat templates run: ``python -m modelyard_runtime.models.template_worker``.

A template is code that came with weights. Jinja's sandbox keeps it from files and objects, not from looping or from filling the memory;
a process of its own, with bounded memory and no environment, can be ended whatever it does. A question is what `render_jinja_template`
takes.
"""

from __future__ import annotations

from transformers.utils.chat_template_utils import render_jinja_template

from modelyard_runtime.worker import MEMORY, Message, live


def _render(conversation: Message) -> Message:
    """Returns the text; or the kind of error that came up, and what it says."""
    try:
        rendered, _ = render_jinja_template(**conversation)
        return {"text": rendered[0]}
    except MemoryError:
        return {"error": "MemoryError", "message": f"it needs more than {MEMORY >> 20} MiB"}
    except Exception as error:  # noqa: BLE001 - whatever a template raises is its refusal, and the server's to tell
        return {"error": type(error).__name__, "message": str(error)[:1000]}


if __name__ == "__main__":
    live(lambda _: _render)
