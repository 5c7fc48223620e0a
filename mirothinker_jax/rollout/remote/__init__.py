"""Sampling by servers: token ids in and out over HTTP, never chat."""
