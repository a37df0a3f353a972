"""Ollama's API, as its own clients speak it: https://github.com/ollama/ollama/blob/main/docs/api.md."""
