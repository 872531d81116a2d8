"""Applications: the command line. Thin: options in, one call into the library, a summary out."""
