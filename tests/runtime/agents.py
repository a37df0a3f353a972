"""A tiny model that knows tools and thinking, and what tests ask it for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from modelyard_runtime.sources.tiny import make_chat
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}

# Qwen3's way, in short: tools in the system message, calls in tags, results in a user's turn, thinking on demand.
TEMPLATE = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer calls as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>
{% elif enable_thinking is defined %}<think>

</think>

{% endif %}{% endif %}"""


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def make_agent(folder: Path) -> None:
    """Writes the tiny chat model with a template that knows tools and thinking, and tokens for their markers."""
    make_chat(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in ("<think>", "</think>")], special_tokens=True)
    tokenizer.save_pretrained(folder)
    config["vocab_size"] = len(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    _grow(folder / "model.safetensors", len(tokenizer))


def _grow(path: Path, size: int) -> None:
    """Adds rows for new tokens to the embeddings and the head."""
    weights = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = np.zeros((size - len(weights[name]), weights[name].shape[1]), dtype=np.float32)
        weights[name] = np.concatenate([weights[name], rows])
    save_file(weights, path, metadata={"format": "pt"})
