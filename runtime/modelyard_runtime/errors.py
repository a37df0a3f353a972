"""Why the runtime cannot serve: one exception per root cause, each with its remedy.

    RuntimeFailed                 reason                    exit code
    ├── ArgumentsInvalid          EngineArgumentsInvalid    2
    ├── WeightsNotFound           WeightsNotFound           80
    ├── UnsupportedModel          UnsupportedModel          81
    ├── Unauthorized              Unauthorized              82
    ├── DownloadFailed            DownloadFailed            83
    ├── OutOfMemory               OutOfMemory               84
    ├── WarmupFailed              WarmupFailed              85
    └── Crashed                   CrashLoop                 86

They end the process: `main` writes them to the termination log and to stderr. What a client sees are `modelyard.api.errors`.
"""

from typing import ClassVar

from modelyard.api.reasons import EXIT_CODES, Reason, Termination


class RuntimeFailed(Exception):
    """The process cannot serve. ``message`` says what happened, ``remedy`` what the user can do; one line each."""

    reason: ClassVar[Reason] = Reason.CRASH_LOOP
    default_remedy: ClassVar[str] = "read the log above; if it does not help, report it with the log and the manifest"

    def __init__(self, message: str, remedy: str | None = None):
        super().__init__(message)
        self.message = _one_line(message)
        self.remedy = _one_line(remedy or self.default_remedy)

    @property
    def exit_code(self) -> int:
        """The process's exit code for this cause."""
        return EXIT_CODES[self.reason]

    def termination(self) -> Termination:
        """Returns what the termination log says."""
        return Termination(self.reason, self.message, self.remedy)


class ArgumentsInvalid(RuntimeFailed):
    """A flag, environment variable or combination of them is wrong."""

    reason = Reason.ENGINE_ARGUMENTS_INVALID
    default_remedy = "correct the flag (in a manifest spec.engine.args); modelyard-runtime serve --help lists them all"


class WeightsNotFound(RuntimeFailed):
    """The source, or a file that the model needs, does not exist."""

    reason = Reason.WEIGHTS_NOT_FOUND
    default_remedy = "check the model's source"


class UnsupportedModel(RuntimeFailed):
    """The weights are there, and this runtime cannot run them."""

    reason = Reason.UNSUPPORTED_MODEL
    default_remedy = "choose a model whose architecture is supported"


class Unauthorized(RuntimeFailed):
    """The source wants a token, or refuses the one given."""

    reason = Reason.UNAUTHORIZED
    default_remedy = "give a token that may read the model: --token-file, in a manifest spec.model.credentialsSecret"


class DownloadFailed(RuntimeFailed):
    """The weights could not be fetched or stored: network, checksum, disk space."""

    reason = Reason.DOWNLOAD_FAILED
    default_remedy = "check the network and the free space of the model cache, then start again"


class OutOfMemory(RuntimeFailed):
    """The weights or the KV cache do not fit."""

    reason = Reason.OUT_OF_MEMORY
    default_remedy = (
        "give it more memory, or lower --max-model-length or --max-concurrent-sequences (in a manifest spec.resources.memory or "
        "spec.resources.gpu, spec.engine.maxModelLength and spec.engine.maxConcurrentSequences)"
    )


class WarmupFailed(RuntimeFailed):
    """The model was loaded, and its first forward pass failed."""

    reason = Reason.WARMUP_FAILED
    default_remedy = "check that the weights are complete and that --dtype (spec.engine.dtype) suits the device"


class Crashed(RuntimeFailed):
    """The engine died while it served."""


def _one_line(text: str) -> str:
    return " ".join(text.split())
