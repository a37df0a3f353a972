"""Structured output: JSON schemas and regular expressions as grammars that bound what a model may say."""
