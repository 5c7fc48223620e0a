"""MiroThinker's training in JAX: SFT, DPO and GRPO of research agents with real tool calls."""

__version__ = "0.1.0"
