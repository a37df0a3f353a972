"""Threads that decode recordings and look for speech in them."""

import pytest
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Exposition, Metrics
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.loading import find, load


@pytest.mark.parametrize("files", ["converted", "whisper"])
@pytest.mark.parametrize(("device", "threads"), [("cpu", 3), ("cuda", 6)])
async def test_there_are_as_many_as_the_model_s_device_leaves(  # noqa: PLR0917 - fixtures
    executors, settings, request, files, device, threads
):
    own = settings(f"file://{request.getfixturevalue(files)}")
    found = find(own, lambda _: None)
    model = load(found, own, lambda _: None)
    assert model.device == "cpu"
    model.device = device
    service = found.module.serve(model, Context(own, Metrics(Exposition(), "whisper", Load), found.capabilities, lambda _: None))
    assert executors["listen"] == threads
    await service.stop()
