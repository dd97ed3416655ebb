"""Training of the ladder: a family of tiny Qwen3-architecture models on two procedural tasks."""
