"""The generation engine: continuous batching over any Transformers decoder that uses the attention interface."""
