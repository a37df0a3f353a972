"""Speech to text beside bare faster-whisper, in one run: word error, and what serving adds.

    python benchmarks/transcription.py [--rounds 5] [--beams 5]

espeak-ng reads 20 sentences. Both sides have the same model (`builtin://whisper-tiny-en`), options and processor; rounds alternate between
them, sentence by sentence, because the machine may be busy with other things. The processor's time counts as well as the clock's: it
tells work from waiting. faster-whisper runs twice, as its own page shows it, and with its threads and their waits as the server has
them. Then a recording of several minutes, whose words are counted at the cuts: the sentences after one another,
with pauses, and without any.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import psutil

MODEL = "builtin://whisper-tiny-en"
SENTENCES = (
    "The meeting begins at nine in the morning, and everybody is welcome.",
    "Please send the report to the office before the end of the week.",
    "She walked along the river and counted the boats under the bridge.",
    "The weather will be cold and dry tomorrow, with a little wind from the north.",
    "He bought two loaves of bread and a bottle of milk at the market.",
    "Our train leaves from platform seven in about fifteen minutes.",
    "The doctor told him to drink more water and to sleep eight hours.",
    "They have lived in this small house for more than twenty years.",
    "A large black dog was sleeping in front of the open door.",
    "The children played in the garden until it became too dark to see.",
    "My sister is going to visit us with her husband next month.",
    "The new software makes it easier to find the right answer.",
    "There is nothing better than a cup of hot coffee after lunch.",
    "The old man told a long story about his journey across the ocean.",
    "We need four chairs and a round table for the dining room.",
    "The library is closed on Sunday, but you can return books at any time.",
    "He opened the letter slowly and read it three times without a word.",
    "The company will hire thirty more people before the summer.",
    "It is important to check the numbers again before you sign the contract.",
    "The music was so loud that nobody could hear the telephone ring.",
)


#: faster-whisper as its own page shows it, and with its threads and their waits as the server has them: what is left is serving.
_BARES = {"faster-whisper": ("plain", {}), "the same, tuned": ("tuned", {"GOMP_SPINCOUNT": "2000"})}
_FIELDS = {"wall": "clock", "processor": "processor"}


class Read(NamedTuple):
    """A text, and what it took: seconds by the clock, and of the processor."""

    text: str
    wall: float
    processor: float


def main() -> None:
    options = _options()
    if options.bare:
        _bare(options.beams, options.bare == "tuned")
        return
    _need("espeak-ng")
    with tempfile.TemporaryDirectory() as folder, _modelyard(options.beams) as port, _bares(options.beams) as bares:
        files = [_speak(sentence, Path(folder) / f"{number}.wav") for number, sentence in enumerate(SENTENCES)]
        server = next(process for process in psutil.process_iter(["pid", "cmdline"]) if f"--port={port}" in (process.info["cmdline"] or ()))
        sides: dict[str, Any] = {
            "modelyard": lambda path: _ask(server, port, path),
            **{name: partial(_tell, bare) for name, bare in bares.items()},
        }
        rounds = _measure(sides, files, options.rounds)
        _report(rounds, files)
        for name, pause in (("pauses of 0.7 s", 0.7), ("no pause", 0.0)):
            whole = _join(files, Path(folder) / "whole.wav", pause)
            spoken = " ".join(SENTENCES)
            for side, read in sides.items():
                said = read(whole)
                print(
                    f"{_seconds(whole):.0f} s with {name}, {side:<15}: word error {_errors(spoken, said.text):.1%}, "
                    f"{_seconds(whole) / said.wall:.1f} x real time, processor {said.processor:.1f} s"
                )


def _measure(sides: dict[str, Any], files: Sequence[Path], count: int) -> dict[str, list[list[Read]]]:
    rounds: dict[str, list[list[Read]]] = {name: [] for name in sides}
    for read in sides.values():
        read(files[0])
    for number in range(count):
        taken: dict[str, list[Read]] = {name: [] for name in sides}
        for index, path in enumerate(files):
            for name in sorted(sides, reverse=(number + index) % 2 == 1):
                taken[name].append(sides[name](path))
        for name, reads in taken.items():
            rounds[name].append(reads)
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return rounds


def _report(rounds: dict[str, list[list[Read]]], files: Sequence[Path]) -> None:
    length = sum(map(_seconds, files))
    spoken = " ".join(SENTENCES)
    print(f"{len(files)} sentences, {length:.0f} s; the middle of {len(next(iter(rounds.values())))} rounds")
    print(f"{'':<15} {'word error':>10} {'seconds':>8} {'processor':>10} {'real time':>10}")
    for name, each in rounds.items():
        wall, processor = (statistics.median(sum(getattr(read, field) for read in reads) for reads in each) for field in _FIELDS)
        error = _errors(spoken, " ".join(read.text for read in each[0]))
        print(f"{name:<15} {error:>10.1%} {wall:>8.2f} {processor:>10.2f} {length / wall:>9.1f}x")
    for peer, field in product(_BARES, _FIELDS):
        pairs = zip(rounds["modelyard"], rounds[peer], strict=True)
        ratios = [
            statistics.median(getattr(a, field) / getattr(b, field) for a, b in zip(ours, theirs, strict=True)) for ours, theirs in pairs
        ]
        by_round = " ".join(f"{one - 1:+.1%}" for one in ratios)
        print(f"over {peer}, by the {_FIELDS[field]}: {statistics.median(ratios) - 1:+.1%} (by round: {by_round})")


def _errors(spoken: str, said: str) -> float:
    """Returns the share of words to change, add or leave out to get from one text to the other, without case and punctuation."""
    wanted, found = (re.sub(r"[^a-z0-9 ]", "", text.lower().replace("-", " ")).split() for text in (spoken, said))
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for index, other in enumerate(found, 1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (word != other))
    return row[-1] / len(wanted)


def _ask(server: psutil.Process, port: int, path: Path) -> Read:
    boundary = uuid.uuid4().hex
    parts = [b"--%b\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper\r\n" % boundary.encode()]
    parts.append(
        b"--%b\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\n%b\r\n" % (boundary.encode(), path.read_bytes())
    )
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/audio/transcriptions", body, headers)
    before, started = _processor(server), time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        text = json.load(answer)["text"]
    return Read(text, time.perf_counter() - started, _processor(server) - before)


def _tell(bare: subprocess.Popen[str], path: Path) -> Read:
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdin.write(f"{path}\n")
    bare.stdin.flush()
    return Read(*json.loads(bare.stdout.readline()))


def _bare(beams: int, is_tuned: bool) -> None:
    """Reads paths from standard input and writes what is said in them, as a program of a few lines does with faster-whisper.

    Tuned it is loaded on a thread that ends: the threads that helped to load end with it, and the rest stay awake for each other.
    """
    from faster_whisper import WhisperModel  # noqa: PLC0415
    from modelyard_runtime.hardware import usable_cores  # noqa: PLC0415
    from modelyard_runtime.settings import StorageSettings  # noqa: PLC0415
    from modelyard_runtime.sources.resolve import resolve  # noqa: PLC0415

    folder = resolve(MODEL, cache_dir=StorageSettings().cache_dir, model_dirs=(), token=None, progress=lambda step: None)
    load = partial(WhisperModel, str(folder), device="cpu", cpu_threads=usable_cores())
    if is_tuned:
        with ThreadPoolExecutor(1) as thread:
            model = thread.submit(load).result()
    else:
        model = load()
    own = psutil.Process()
    print("ready", flush=True)
    for line in sys.stdin:
        before, started = _processor(own), time.perf_counter()
        segments, _ = model.transcribe(line.strip(), beam_size=beams, vad_filter=True, language="en")
        text = "".join(segment.text for segment in segments).strip()
        print(json.dumps([text, time.perf_counter() - started, _processor(own) - before]), flush=True)


@contextmanager
def _bares(beams: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    with ExitStack() as stack:
        children = {}
        for name, (kind, environment) in _BARES.items():
            command = [sys.executable, __file__, "--bare", kind, "--beams", str(beams)]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
            children[name] = stack.enter_context(child)
            stack.callback(child.kill)
            assert child.stdout is not None
            child.stdout.readline()
        yield children


@contextmanager
def _modelyard(beams: int) -> Iterator[int]:
    port = _free_port()
    flags = [
        f"--port={port}",
        "--metrics-port=0",
        "--host=127.0.0.1",
        "--served-model-name=whisper",
        f"--beam-size={beams}",
        "--device=cpu",
    ]
    command = [sys.executable, "-m", "modelyard_runtime.main", "serve", f"--model={MODEL}", *flags, "--log-level=warning"]
    with subprocess.Popen(command) as child:
        try:
            _await_ready(child, port)
            yield port
        finally:
            child.terminate()
            child.wait(30)


def _await_ready(child: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end and child.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    sys.exit("the server does not become ready")


def _speak(text: str, path: Path) -> Path:
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(path), text], check=True)
    return path


def _join(files: Sequence[Path], path: Path, pause: float) -> Path:
    with wave.open(str(path), "wb") as writer:
        for number, name in enumerate(files):
            with wave.open(str(name), "rb") as reader:
                if not number:
                    writer.setparams(reader.getparams())
                data = reader.readframes(reader.getnframes())
                quiet = bytes(2)
                data = data.rstrip(quiet) if not pause else data
                writer.writeframes(data[: len(data) // 2 * 2] + quiet * int(pause * reader.getframerate()))
    return path


def _seconds(path: Path) -> float:
    with wave.open(io.BytesIO(path.read_bytes()), "rb") as reader:
        return reader.getnframes() / reader.getframerate()


def _processor(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _need(tool: str) -> None:
    if shutil.which(tool) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", tool], check=False, stdout=subprocess.DEVNULL)
    if shutil.which(tool) is None:
        sys.exit(f"{tool} is missing: install Debian's package {tool} (sudo apt-get install {tool})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--bare", choices=("plain", "tuned"), help="run only faster-whisper, over paths from standard input")
    return parser.parse_args()


if __name__ == "__main__":
    main()
