"""The one exception for input that a person can mend: one line: what, which value, what to do."""


class InputError(ValueError):
    """Raised for bad input: files, prompts, sizes, names, checkpoints. The message is one line."""
