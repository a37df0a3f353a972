"""`model.generate` over a static batch, as a process that `runtime.py` drives: a line of prompts in, a line of seconds out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        chats = [[{"role": "user", "content": prompt}] for prompt in asked["prompts"]]
        batch = tokenizer.apply_chat_template(chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True)
        count = asked["new_tokens"]
        with torch.inference_mode():
            model.generate(**batch, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        print(json.dumps({"seconds": time.perf_counter() - started, "tokens": count * len(chats)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
