"""Tiny models made on the spot: real architectures and tokenizers with seeded random weights, for tests and first steps.

The weights come from numpy's PCG64 through uniform numbers, which is exact integer arithmetic, so that the files are equal on every
machine; neither PyTorch nor Transformers is needed to make them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

Weights = dict[str, NDArray[np.float32]]
Draw = Callable[..., NDArray[np.float32]]

HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _INNER = 64, 2, 4, 2, 128
_HEAD_SIZE = HIDDEN // _HEADS
_CONTEXT = 2048
_PAD, _START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
PAD_ID, _START_ID, END_ID = 0, 1, 2
_WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what "
    "all were we when your can said there use an each which she do how their if will up other about out many then them these "
    "so some her would make like him into time has look two more write go see number no way could people my than first water "
    "been call who oil its now find long down day did get come made may part Hello world user assistant system model question "
    "answer please thank good morning name"
)

# ChatML, as Qwen and SmolLM2 write it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_chat(folder: Path) -> None:
    """Writes a Qwen3 model of two layers into ``folder``, which exists."""
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, folder, eos_token=END, chat_template=CHAT_TEMPLATE)
    write_json(folder / "config.json", chat_config(tokenizer.get_vocab_size()))
    write_json(folder / "generation_config.json", {"eos_token_id": [END_ID], "pad_token_id": PAD_ID, "do_sample": False})
    save_file(_chat_weights(tokenizer), folder / "model.safetensors", metadata={"format": "pt"})


def make_embed(folder: Path) -> None:
    """Writes a BERT model of two layers in the layout of sentence-transformers into ``folder``, which exists."""
    vocabulary = save_encoder_tokenizer(folder)
    write_json(folder / "config.json", encoder_config(vocabulary))
    write_json(
        folder / "modules.json", [_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling"), _module(2, "2_Normalize", "Normalize")]
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True})
    save_file(encoder_weights(seeded(20_261), vocabulary), folder / "model.safetensors", metadata={"format": "pt"})


def make_tokenizer(*more_specials: str) -> Tokenizer:
    """Returns a byte-level BPE whose merges build each common word from left to right; ``more_specials`` are its last tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([_PAD, _START, END, *alphabet])}
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS.split():
        prefix = "Ġ"
        for letter in word:
            merges.setdefault((prefix, letter))
            prefix += letter
            vocabulary.setdefault(prefix, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (_PAD, _START, END, *more_specials)])
    return tokenizer


def save_encoder_tokenizer(folder: Path) -> int:
    """Writes the tokenizer that marks the ends of a text and of each text of a pair; returns the size of its vocabulary."""
    tokenizer = make_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {END}", pair=f"{_START} $A {END} $B:1 {END}:1", special_tokens=[(_START, _START_ID), (END, END_ID)]
    )
    save_tokenizer(tokenizer, folder, cls_token=_START, sep_token=END, model_max_length=256)
    return tokenizer.get_vocab_size()


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **more: Any) -> None:
    """Writes the tokenizer's files."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PAD,
        "model_max_length": _CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config | more)


def chat_config(vocabulary: int) -> dict[str, Any]:
    """Returns the config of the Qwen3 decoder."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_SIZE,
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": END_ID,
        "dtype": "float32",
    }


def encoder_config(vocabulary: int) -> dict[str, Any]:
    """Returns the config of a BERT."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": PAD_ID,
        "dtype": "float32",
    }


def _module(index: int, path: str, name: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}


def seeded(seed: int) -> Draw:
    """Returns a function that draws uniform weights of a shape, within plus and minus ``spread``."""
    generator = np.random.Generator(np.random.PCG64(seed))

    def draw(*shape: int, spread: float = 0.3) -> NDArray[np.float32]:
        return ((generator.random(shape, dtype=np.float32) * 2 - 1) * np.float32(spread)).astype(np.float32)

    return draw


def ones(size: int) -> NDArray[np.float32]:
    """Returns weights of 1."""
    return np.ones(size, dtype=np.float32)


def _chat_weights(tokenizer: Tokenizer) -> Weights:
    draw = seeded(20_260)
    size = tokenizer.get_vocab_size()
    weights = {"model.embed_tokens.weight": draw(size, HIDDEN, spread=1.0), "model.norm.weight": ones(HIDDEN)}
    for layer in range(_LAYERS):
        weights |= {f"model.layers.{layer}.{name}": weight for name, weight in decoder_layer(draw).items()}
    return weights | {"lm_head.weight": head(draw, tokenizer)}


def head(draw: Draw, tokenizer: Tokenizer) -> NDArray[np.float32]:
    """Returns an output layer whose scores are several units apart, so that rounding never decides which token is the likeliest.

    Special tokens and bytes that are no text by themselves get the middle of the range and come up only when sampled.
    """
    weights = draw(tokenizer.get_vocab_size(), HIDDEN, spread=0.8)
    weights[[index for token, index in tokenizer.get_vocab().items() if token.startswith("<|") or not token.replace("Ġ", "").isascii()]] = 0
    return weights


def decoder_layer(draw: Draw) -> Weights:
    """Returns a layer of the decoder, by names without its prefix."""
    return {
        "input_layernorm.weight": ones(HIDDEN),
        "post_attention_layernorm.weight": ones(HIDDEN),
        "self_attn.q_proj.weight": draw(HIDDEN, HIDDEN),
        "self_attn.k_proj.weight": draw(_KV_HEADS * _HEAD_SIZE, HIDDEN),
        "self_attn.v_proj.weight": draw(_KV_HEADS * _HEAD_SIZE, HIDDEN),
        "self_attn.o_proj.weight": draw(HIDDEN, HIDDEN),
        "self_attn.q_norm.weight": ones(_HEAD_SIZE),
        "self_attn.k_norm.weight": ones(_HEAD_SIZE),
        "mlp.gate_proj.weight": draw(_INNER, HIDDEN),
        "mlp.up_proj.weight": draw(_INNER, HIDDEN),
        "mlp.down_proj.weight": draw(HIDDEN, _INNER),
    }


def encoder_weights(draw: Draw, vocabulary: int) -> Weights:
    """Returns the weights of a BERT."""
    weights: Weights = {
        "embeddings.word_embeddings.weight": draw(vocabulary, HIDDEN, spread=1.0),
        "embeddings.position_embeddings.weight": draw(512, HIDDEN, spread=0.1),
        "embeddings.token_type_embeddings.weight": draw(2, HIDDEN, spread=0.1),
        **_norm("embeddings.LayerNorm"),
        **linear(draw, "pooler.dense", HIDDEN, HIDDEN),
    }
    for layer in range(_LAYERS):
        prefix = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            weights |= linear(draw, f"{prefix}.attention.self.{name}", HIDDEN, HIDDEN)
        weights |= linear(draw, f"{prefix}.attention.output.dense", HIDDEN, HIDDEN) | _norm(f"{prefix}.attention.output.LayerNorm")
        weights |= linear(draw, f"{prefix}.intermediate.dense", _INNER, HIDDEN)
        weights |= linear(draw, f"{prefix}.output.dense", HIDDEN, _INNER) | _norm(f"{prefix}.output.LayerNorm")
    return weights


def linear(draw: Draw, name: str, out: int, into: int) -> Weights:
    """Returns a linear layer with a bias."""
    return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out, spread=0.02)}


def _norm(name: str) -> Weights:
    return {f"{name}.weight": ones(HIDDEN), f"{name}.bias": np.zeros(HIDDEN, dtype=np.float32)}


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")
