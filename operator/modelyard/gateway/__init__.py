"""The gateway: one address for OpenAI clients, routed by model name, held while a model wakes.

    reader ──▶ downstream ──▶ service.forward ──▶ balancer ──▶ upstream
    (parse)    (connection)   (route, count)      (replica,     (pool, answer)
                                                   admission)

`directory` knows names and endpoints and does no I/O; `watch` or `modelyard up` feeds it. `exchange` is the only writer to a client.
"""
