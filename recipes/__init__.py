"""How what is bundled was made: run by hand, from a checkout."""
