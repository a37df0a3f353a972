"""Whisper by Transformers, several windows in one forward pass.

Transformers' `generate` produces the tokens of one pass; the rest of the method (temperature fallback, following the timestamps through
a window, times of words) is here, because it knows where a window's sound ends, tells which temperature a text came of, and aligns words
by a second look at the text alone, without every attention of the encoder in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from faster_whisper.tokenizer import Tokenizer
from tokenizers import Tokenizer as FastTokenizer
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation.utils import GenerateEncoderDecoderOutput
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils.logging import disable_progress_bar

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound
from modelyard_runtime.models.folder import check_complete, check_folder, named_causes
from modelyard_runtime.models.sizes import check_sizes
from modelyard_runtime.speech.base import COMPRESSION_LIMIT, LOGPROB_LIMIT, SAMPLE_RATE, WINDOW_SECONDS, Samples, Segment, Task, Word
from modelyard_runtime.speech.phrases import Phrase, compression, phrases, share, words

_FRAME = SAMPLE_RATE // 100
_BATCH = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True, slots=True)
class _Heard:
    """The tokens of one pass over a window, and how good they are."""

    tokens: list[int]
    text: str
    temperature: float
    avg_logprob: float

    @property
    def is_good(self) -> bool:
        return self.avg_logprob >= LOGPROB_LIMIT and (not self.text or compression(self.text) <= COMPRESSION_LIMIT)


@dataclass(slots=True)
class _Reading:
    """How far a window has been read, in samples, and what was found."""

    samples: Samples
    position: int = 0
    segments: list[Segment] = field(default_factory=list)

    @property
    def rest(self) -> Samples:
        return self.samples[self.position :]

    @property
    def seconds_read(self) -> float:
        return self.position / SAMPLE_RATE


class TransformersWhisper:
    """A folder of safetensors with ``config.json``, ``generation_config.json``, ``preprocessor_config.json`` and ``tokenizer.json``."""

    longest = WINDOW_SECONDS

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, beams: int):
        """Loads it. Raises OutOfMemory, UnsupportedModel or WeightsNotFound."""
        self._model, self._extractor, self._tokenizer = _load(folder, device, dtype)
        config = self._model.generation_config
        self._multilingual = bool(getattr(config, "is_multilingual", False))
        self._beams = beams
        known = getattr(config, "lang_to_id", None) or {}
        self.languages = tuple(code for code in LANGUAGES if f"<|{code}|>" in known) if self._multilingual else ("en",)
        self.device = device.type
        self.batch = _BATCH.get(device.type, 4)

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says of how it is computed."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        return {"name": "transformers", "device": str(self._model.device), "dtype": dtype}

    def count_tokens(self, text: str) -> int:
        """Returns the length of a text in tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @torch.inference_mode()
    def detect_language(self, samples: Samples) -> str:
        """Returns the code of the language spoken."""
        token = int(self._model.detect_language(self._features([samples])["input_features"])[0])
        return str(self._tokenizer.id_to_token(token)).strip("<|>")

    @torch.inference_mode()
    def transcribe(self, windows: Sequence[Samples], task: Task) -> list[list[Segment]]:
        """Returns the segments of each window."""
        tokenizer = Tokenizer(self._tokenizer, self._multilingual, "translate" if task.translate else "transcribe", task.language)
        readings = [_Reading(samples) for samples in windows]
        # Under a tenth of a second nothing is said any more.
        while left := [reading for reading in readings if len(reading.rest) > SAMPLE_RATE // 10]:
            for reading, heard in zip(left, self._hear([reading.rest for reading in left], task, tokenizer), strict=True):
                self._take(reading, heard, task, tokenizer)
        return [reading.segments for reading in readings]

    def _take(self, reading: _Reading, heard: _Heard, task: Task, tokenizer: Tokenizer) -> None:
        """Adds what was heard to a reading and moves on to where it ended."""
        found, read = phrases(heard.tokens, tokenizer.timestamp_begin, len(reading.rest) / SAMPLE_RATE)
        found = [phrase for phrase in found if tokenizer.decode(phrase.tokens).strip()]
        timed = self._words(reading.rest, found, tokenizer) if task.words and found else [()] * len(found)
        offset = reading.seconds_read
        for phrase, own in zip(found, timed, strict=True):
            text = tokenizer.decode(phrase.tokens)
            moved = tuple(replace(word, start=word.start + offset, end=word.end + offset) for word in own)
            start, end = (moved[0].start, moved[-1].end) if moved else (phrase.start + offset, phrase.end + offset)
            quality = (heard.temperature, heard.avg_logprob, compression(text), None)
            reading.segments.append(Segment(start, max(start, end), text, phrase.tokens, *quality, moved))
        reading.position += max(int(read * SAMPLE_RATE), SAMPLE_RATE // 10)

    def _hear(self, windows: Sequence[Samples], task: Task, tokenizer: Tokenizer) -> list[_Heard]:
        """Returns one pass over each window: at the first temperature that gives a good text, else the likeliest text of all."""
        tried: list[list[_Heard]] = [[] for _ in windows]
        left = list(range(len(windows)))
        for temperature in task.temperatures:
            for index, heard in zip(left, self._generate([windows[index] for index in left], task, temperature, tokenizer), strict=True):
                tried[index].append(heard)
            left = [index for index in left if not tried[index][-1].is_good]
            if not left:
                break
        return [one[-1] if one[-1].is_good else max(one, key=lambda heard: heard.avg_logprob) for one in tried]

    def _generate(self, windows: Sequence[Samples], task: Task, temperature: float, tokenizer: Tokenizer) -> list[_Heard]:
        how: dict[str, Any] = {"do_sample": True} if temperature else {"num_beams": self._beams}
        if self._multilingual:
            how |= {"language": task.language, "task": "translate" if task.translate else "transcribe"}
        if task.prompt:
            how["prompt_ids"] = self._prompt(task.prompt, tokenizer)
        output = self._model.generate(
            **self._features(windows),
            temperature=temperature,
            return_timestamps=True,
            force_unique_generate_call=True,
            return_dict_in_generate=True,
            output_scores=True,
            **how,
        )
        scores = None if "sequences_scores" in output else torch.stack(output.scores, 1)
        heard = []
        for index, sequence in enumerate(output.sequences.tolist()):
            tokens = sequence[sequence.index(tokenizer.sot) + len(tokenizer.sot_sequence) :]
            end = tokens.index(tokenizer.eot) if tokenizer.eot in tokens else len(tokens)
            average = float(output.sequences_scores[index]) if scores is None else _average(scores[index], tokens[: end + 1])
            heard.append(_Heard(tokens[:end], tokenizer.decode(tokens[:end]).strip(), temperature, average))
        return heard

    def _prompt(self, prompt: str, tokenizer: Tokenizer) -> torch.Tensor:
        kept = self._model.config.max_target_positions // 2 - 1
        return torch.tensor([tokenizer.sot_prev, *tokenizer.encode(" " + prompt.strip())[-kept:]], device=self._model.device)

    def _features(self, windows: Sequence[Samples]) -> dict[str, torch.Tensor]:
        made = self._extractor(list(windows), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        device = self._model.device
        return {"input_features": made.input_features.to(device, self._model.dtype), "attention_mask": made.attention_mask.to(device)}

    def _words(self, samples: Samples, found: Sequence[Phrase], tokenizer: Tokenizer) -> list[tuple[Word, ...]]:
        """Returns each phrase's words, timed by where the decoder looks while it reads the text again (Whisper's alignment heads)."""
        texts = [[token for token in phrase.tokens if token < tokenizer.eot] for phrase in found]
        text = [token for one in texts for token in one]
        times, probabilities = self._align(samples, text, [*tokenizer.sot_sequence, tokenizer.no_timestamps])
        pieces, tokens = tokenizer.split_to_word_tokens(text)
        return share(words(pieces, list(map(len, tokens)), times, probabilities), list(map(len, texts)))

    def _align(self, samples: Samples, text: list[int], start: list[int]) -> tuple[list[float], list[float]]:
        """Returns when each token begins, and the last ends, in seconds; and each one's probability."""
        ids = torch.tensor([start + text], device=self._model.device)
        core = self._model.model
        encoded = core.encoder(self._features([samples])["input_features"]).last_hidden_state
        self._model.set_attn_implementation("eager")  # which alone tells where it looks
        decoded = core.decoder(input_ids=ids, encoder_hidden_states=encoded, output_attentions=True, use_cache=False)
        self._model.set_attn_implementation("sdpa")
        # The row of the last start token already looks at the first word.
        before = len(start) - 1
        logits = self._model.proj_out(decoded.last_hidden_state[0, before:-1]).float()
        chosen = logits.softmax(-1).gather(1, ids[0, len(start) :, None])[:, 0]
        looks = GenerateEncoderDecoderOutput(sequences=ids, cross_attentions=(tuple(one.float() for one in decoded.cross_attentions),))
        heads = self._model.generation_config.alignment_heads
        times = self._model._extract_token_timestamps(looks, heads, num_frames=max(len(samples) // _FRAME, 2), num_input_ids=before)
        return times[0, before : before + len(text) + 1].tolist(), chosen.tolist()


def _average(scores: torch.Tensor, tokens: list[int]) -> float:
    """Returns the mean log probability of tokens, from scores of shape [tokens, vocabulary]."""
    chosen = scores[: len(tokens)].float().log_softmax(-1).gather(1, torch.tensor(tokens, device=scores.device)[:, None])
    return float(chosen.mean())


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, FastTokenizer]:
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise WeightsNotFound(f"{folder} has no {name}", "put it there from the model's repository; Whisper cannot be run without it")
    disable_progress_bar()
    check_folder(folder)
    with named_causes(folder, device, WhisperForConditionalGeneration):
        config = WhisperConfig.from_pretrained(folder, local_files_only=True)
        check_sizes(folder, config, lambda: WhisperForConditionalGeneration(config))
        model, report = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation="sdpa", output_loading_info=True
        )
        model = model.eval().requires_grad_(False).to(device)
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    check_complete(folder, report["missing_keys"])
    if not getattr(model.generation_config, "alignment_heads", None):
        raise UnsupportedModel(
            f"generation_config.json of {folder.name} has no alignment_heads", "take that file from the model's current repository"
        )
    return model, extractor, tokenizer
