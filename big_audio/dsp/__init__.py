"""Signal processing written once: the array namespace (numpy or jax.numpy) comes from the input."""
