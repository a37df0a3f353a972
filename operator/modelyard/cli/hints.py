"""How to call what was started: lines that can be pasted as they stand."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from modelyard.local.project import shown_as
from modelyard.local.state import State, default_path

_EXAMPLE = "Write a haiku about rivers."


def how_to_call(url: str, model: str | None, program: str) -> str:
    """Returns the ways to talk to a chat model; the way to see what there is when none can chat. ``program`` is that of `chat_program`."""
    if model is None:
        return f"Call it with curl:\n\ncurl {url}/models\n"
    return f"""Call it with curl:

curl {url}/chat/completions -H 'content-type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{_EXAMPLE}"}}]}}'

with the openai package (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="none")
answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "{_EXAMPLE}"}}])
print(answer.choices[0].message.content)

or talk to it, in another terminal:

{program} {model}
"""


def chat_program(state: State) -> str:
    """Returns `modelyard chat` as another terminal in this folder finds the program, and the program this session."""
    script = Path(sys.executable).with_name("modelyard")
    found = shutil.which("modelyard")
    called = str(shown_as(script)) if script.exists() and (found is None or not script.samefile(found)) else "modelyard"
    chosen = [] if state.root == default_path({**os.environ, "MODELYARD_STATE_DIR": ""}) else ["--state-dir", str(state.root)]
    return shlex.join([called, "chat", *chosen])
