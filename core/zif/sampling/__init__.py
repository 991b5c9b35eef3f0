"""How tokens are drawn: parameters, the counter-based generator, the sampler's device program."""
