"""The half that needs JAX: from measured datasets to a posterior, and from a posterior to answers."""
