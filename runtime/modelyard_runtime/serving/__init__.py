"""The process between HTTP and the models: start, limits, batching, drain."""
