"""``/v1/responses``, without state: each request brings its conversation, and nothing of it is kept."""
