"""All of Ollama's API as one router."""

from __future__ import annotations

from fastapi import APIRouter

from modelyard_runtime.api.ollama import embedding, generation, models, storage

router = APIRouter()
for part in (generation, embedding, models, storage):
    router.include_router(part.router)
