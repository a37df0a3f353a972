"""Encoders of many architectures against Transformers alone: packed or padded, the states are the model's own."""

import json

import numpy as np
import pytest
import torch
from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel, WeightsNotFound
from modelyard_runtime.models.embedding import EmbeddingModel
from modelyard_runtime.models.encoder import load_model
from modelyard_runtime.models.pooling import Hidden, pool
from modelyard_runtime.models.ranking import RankingModel, activate
from modelyard_runtime.models.tokenizing import TextTokenizer
from modelyard_runtime.serving.detection import detect, family_for
from modelyard_runtime.sources.resolve import resolve
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from .tiny_models import SHAPES, make, sentence_files

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
TEXTS = ["Hello", "the world of words and numbers", "a " * 40, "Zürich, 東京", "thank you very much", "x"]
PAIRS = [("the world", "of words"), ("Hello", "good morning, please answer the question"), ("a " * 30, "x")]
#: What reads texts packed; the others have attention of their own kind, and are padded.
PACKED = {"bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "electra", "qwen3", "gemma3_text"}


@pytest.fixture(scope="session")
def tiny(cache_dir):
    return resolve("builtin://tiny-embed", cache_dir=cache_dir, progress=lambda step: None)


@pytest.fixture(scope="session")
def chat_folder(cache_dir):
    return resolve("builtin://tiny-chat", cache_dir=cache_dir, progress=lambda step: None)


@pytest.mark.parametrize("architecture", SHAPES)
def test_embeddings_are_those_of_each_text_alone(tiny, tmp_path, architecture):
    folder = make(tiny, tmp_path / "model", architecture)
    assert detect(folder) == ("embeddings", "rerank")
    model = EmbeddingModel(folder, **CPU)
    assert model.encoder.packs == (architecture in PACKED)
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    texts = model.tokenizer.encode(TEXTS)
    vectors = model.embed(texts)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            states = plain(input_ids=torch.tensor([text.ids]), attention_mask=torch.ones(1, len(text), dtype=torch.long)).last_hidden_state
        wanted = torch.nn.functional.normalize(states[0].mean(0), dim=-1).numpy()
        assert np.abs(vector - wanted).max() < 1e-5


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "electra", "qwen3"])
@pytest.mark.parametrize("labels", [{0: "LABEL_0"}, {0: "good", 1: "bad", 2: "odd"}], ids=["one", "three"])
def test_scores_are_those_of_transformers(tiny, tmp_path, architecture, labels):
    folder = make(tiny, tmp_path / "model", architecture, classes=labels)
    assert detect(folder) == (("rerank",) if len(labels) == 1 else ("classify",))
    model = RankingModel(folder, **CPU)
    assert model.packs == (architecture in {"bert", "xlm-roberta", "electra", "qwen3"})
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = model.tokenizer.encode([*PAIRS, *TEXTS])
    scores = model.judge(texts)
    for text, encoded, score in zip([*PAIRS, *TEXTS], texts, scores, strict=True):
        inputs = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == encoded.ids
        with torch.inference_mode():
            wanted = plain(**inputs).logits[0].numpy()
        assert np.abs(score - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(3, None), (3, "multi_label_classification"), (1, None), (1, "regression"), (3, "single_label_classification")],
)
def test_probabilities_are_those_of_the_pipeline(tiny, tmp_path, labels, problem):
    classes = {index: f"class {index}" for index in range(labels)}
    folder = make(tiny, tmp_path / "model", "bert", classes=classes, problem_type=problem)
    model = RankingModel(folder, **CPU)
    wanted = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")(TEXTS)
    got = activate(model.judge(model.tokenizer.encode(TEXTS)), model.activation)
    for row, scores in zip(got, wanted, strict=True):
        for entry in scores:
            assert row[model.labels.index(entry["label"])] == pytest.approx(entry["score"], abs=1e-5)


def test_a_cross_encoder_may_name_its_activation(tiny, tmp_path):
    folder = make(
        tiny, tmp_path / "model", "bert", classes={0: "x"}, sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}
    )
    assert RankingModel(folder, **CPU).activation == "none"


STATES = torch.arange(24, dtype=torch.float32).view(6, 4) ** 1.5
LENGTHS = torch.tensor([1, 3, 2])


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("mean", lambda states: states.mean(0)),
        ("mean_sqrt_len_tokens", lambda states: states.sum(0) / len(states) ** 0.5),
        ("weightedmean", lambda states: (states * torch.arange(1, len(states) + 1)[:, None]).sum(0) / sum(range(1, len(states) + 1))),
        ("max", lambda states: states.max(0).values),
        ("cls", lambda states: states[0]),
        ("lasttoken", lambda states: states[-1]),
    ],
)
def test_poolings(name, formula):
    wanted = torch.stack([formula(states) for states in STATES.split(LENGTHS.tolist())])
    assert torch.allclose(pool(Hidden(STATES, LENGTHS), [name]), wanted, rtol=1e-5)
    assert pool(Hidden(STATES, LENGTHS), [name, "max"]).shape == (3, 8)


def test_a_prompt_can_be_left_out_of_the_pooling():
    hidden = Hidden(STATES, LENGTHS).without([0, 2, 1])
    assert hidden.lengths.tolist() == [1, 1, 1]
    assert torch.equal(hidden.values, STATES[[0, 3, 5]])


def test_a_decoder_embeds_by_its_last_token(tiny, tmp_path):
    """The shape of Qwen3-Embedding."""
    folder = make(tiny, tmp_path / "model", "qwen3", architectures=["Qwen3ForCausalLM"])
    sentence_files(folder, pooling={"pooling_mode_lasttoken": True}, prompts={"query": "Instruct: find\nQuery:", "document": ""})
    assert detect(folder) == ("embeddings", "rerank")
    model = EmbeddingModel(folder, **CPU)
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    texts = model.tokenizer.encode(TEXTS)
    for text, vector in zip(texts, model.embed(texts), strict=True):
        with torch.inference_mode():
            last = plain(input_ids=torch.tensor([text.ids])).last_hidden_state[0, -1]
        assert np.abs(vector - torch.nn.functional.normalize(last, dim=-1).numpy()).max() < 1e-5


def test_dense_layers_follow_the_pooling(tiny, tmp_path):
    folder = make(tiny, tmp_path / "model", "bert")
    sentence_files(folder, pooling={"pooling_mode_weightedmean_tokens": True, "pooling_mode_max_tokens": True})
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "dense", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    config = {"in_features": 64, "out_features": 16, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsNotFound, match="2_Dense"):
        EmbeddingModel(folder, **CPU)
    weight, bias = torch.randn(16, 64), torch.randn(16)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    model = EmbeddingModel(folder, **CPU)
    assert model.dimensions == 16
    states = model.encoder.hidden(texts := model.tokenizer.encode(TEXTS[:2]))
    wanted = torch.tanh(pool(states, ["max", "weightedmean"]) @ weight.T + bias)
    assert np.abs(model.embed(texts) - torch.nn.functional.normalize(wanted, dim=-1).numpy()).max() < 1e-5
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config | {"activation_function": "torch.nn.Softplus"}))
    with pytest.raises(UnsupportedModel, match="Softplus"):
        EmbeddingModel(folder, **CPU)


def test_a_default_prompt_that_is_not_there_is_told(tiny, tmp_path):
    folder = make(tiny, tmp_path / "model", "bert")
    sentence_files(folder, pooling={}, prompts={"query": "q: "}, default_prompt_name="answer")
    with pytest.raises(UnsupportedModel, match="'answer'"):
        EmbeddingModel(folder, **CPU)


def test_a_decoder_that_generates_is_no_reranker(chat_folder):
    with pytest.raises(ArgumentsInvalid, match="made for chat and completions, not for rerank"):
        family_for(chat_folder, ("rerank",))


def test_the_files_say_which_family_reranks(tiny, tmp_path):
    assert family_for(tiny, ("rerank",)).name == "embeddings"
    assert family_for(make(tiny, tmp_path / "one", "bert", classes={0: "x"}), ("rerank",)).name == "ranking"
    assert family_for(make(tiny, tmp_path / "two", "bert", classes={0: "x", 1: "y"}), ("classify",)).name == "ranking"


def test_positions_that_texts_cannot_have_are_not_offered(tiny, tmp_path):
    roberta = EmbeddingModel(make(tiny, tmp_path / "model", "roberta"), **CPU)
    assert roberta.encoder.longest == 139
    assert roberta.embed(roberta.tokenizer.encode(["a " * 130])).shape == (1, 32)


def test_pairs_and_texts_are_cut_as_transformers_cuts_them(tiny):
    ours, theirs = TextTokenizer(tiny), AutoTokenizer.from_pretrained(tiny)
    for length in (6, 7, 9, 14, 30):
        text = "the world of words and numbers " * 5
        assert ours.cut(text, length).ids == theirs(text, max_length=length, truncation=True)["input_ids"]
        for pair in [("the world " * 9, "of words"), ("Hello", "good morning " * 9), ("a " * 30, "the " * 30)]:
            assert ours.cut(pair, length).ids == theirs(*pair, max_length=length, truncation="longest_first")["input_ids"]


def test_the_other_side_can_be_cut(tiny):
    tokenizer = TextTokenizer(tiny)
    whole = tokenizer.encode(["the world of words and numbers"])[0].ids
    assert tokenizer.cut("the world of words and numbers", 4, "left").ids == [whole[0], *whole[-3:]]
    assert tokenizer.cut_ids(whole, 4, "left").ids == [whole[0], *whole[-3:]]
    assert tokenizer.cut_ids(whole, 4).ids == [*whole[:3], whole[-1]]


def test_more_layers_than_there_are_weights_for_are_not_made(tiny, tmp_path):
    folder = make(tiny, tmp_path / "deep", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 100_000}))
    with pytest.raises(WeightsNotFound, match="asks for 100000 layers"):
        load_model(AutoModel, folder, **CPU)


def test_an_encoder_goes_back_to_padding(tiny):
    model = EmbeddingModel(tiny, **CPU)
    texts = model.tokenizer.encode(TEXTS)
    packed = model.embed(texts)
    model.encoder.unpack()
    assert not model.encoder.packs
    assert np.abs(model.embed(texts) - packed).max() < 1e-5
