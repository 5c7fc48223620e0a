"""HTTP over any engine: token ids in and out, and OpenAI's endpoints."""
