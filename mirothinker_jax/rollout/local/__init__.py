"""The local engine: paged keys and values, continuous batching, tokens in and tokens out on this process's devices."""
