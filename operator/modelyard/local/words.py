"""Causes in the words of one machine, which has processes where a cluster has pods and nodes."""

import re
from dataclasses import replace

from modelyard.api.reasons import Reason, Termination
from modelyard.controller.causes import REMEDIES

_REMEDIES = {
    Reason.DOWNLOAD_FAILED: "Check the network between this machine and the source.",
    Reason.OUT_OF_MEMORY: "Free memory, or lower spec.engine.maxModelLength or maxConcurrentSequences.",
    Reason.WARMUP_FAILED: "`modelyard logs {model}` shows the failing forward pass.",
    Reason.CRASH_LOOP: "`modelyard logs {model}` shows what it said.",
    Reason.UNAUTHORIZED: "Name a file with a token that may read the model: modelyard up --secret NAME=FILE, for "
    "spec.model.credentialsSecret.",
}
_DEVICES = "Lower spec.resources.gpu.count or spec.scaling.maxReplicas, or free devices; CUDA_VISIBLE_DEVICES says which may be used."
_OOM = "killed for exceeding its memory limit (OOMKilled)"


def here(problem: Termination, pod: str, model: str) -> Termination:
    """Returns the cause that keeps a replica of a model from answering, as people without a cluster know it."""
    message = re.sub(rf"^pod {re.escape(pod)}(, container runtime)?: ", "", problem.message)
    if problem.reason is Reason.INSUFFICIENT_GPU:
        missing = ", ".join(re.findall(r"Insufficient ([\w./-]*\w)", message))
        return Termination(problem.reason, f"replica {pod}: this machine has too few free devices: {missing}", _DEVICES)
    told = f"replica {pod}: {message.replace(_OOM, 'killed because the memory ran out')}"
    ours = problem.remedy == REMEDIES.get(problem.reason)
    remedy = _REMEDIES.get(problem.reason, problem.remedy) if ours else problem.remedy
    return replace(problem, message=told, remedy=remedy.replace("{model}", model))
