"""Tiny encoders of many architectures with seeded random weights, as folders that Transformers itself wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
DECODER = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
#: Each architecture with what makes it tiny.
SHAPES: dict[str, dict[str, Any]] = {
    "bert": SMALL | {"max_position_embeddings": 130},
    "roberta": SMALL | {"max_position_embeddings": 140, "type_vocab_size": 1},
    "xlm-roberta": SMALL | {"max_position_embeddings": 140, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 130},
    "mpnet": SMALL | {"max_position_embeddings": 140, "pad_token_id": 1},
    "modernbert": SMALL | {"local_attention": 8, "global_attn_every_n_layers": 2, "max_position_embeddings": 256},
    "electra": SMALL | {"embedding_size": 32, "max_position_embeddings": 130},
    "qwen3": DECODER,
    "gemma3_text": DECODER | {"sliding_window": 8, "use_bidirectional_attention": True},
}


def make(source: Path, folder: Path, architecture: str, *, classes: dict[int, str] | None = None, **more: Any) -> Path:
    """Writes a model with the tokenizer of ``source``; with ``classes``, a sequence classifier."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    vocabulary = len(json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]) + 8
    torch.manual_seed(5)
    labels = {} if classes is None else {"num_labels": len(classes), "id2label": classes, "label2id": {v: k for k, v in classes.items()}}
    config = AutoConfig.for_model(architecture, **(SHAPES[architecture] | {"vocab_size": vocabulary} | labels | more))
    loader = AutoModel if classes is None else AutoModelForSequenceClassification
    model = loader.from_config(config)
    with torch.no_grad():  # weights large enough for texts to differ
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def sentence_files(folder: Path, *, pooling: dict[str, Any], normalize: bool = True, **config: Any) -> None:
    """Adds the files of sentence-transformers."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
