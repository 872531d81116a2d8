"""The one exception type for input a person can mend: one line that says what, which value, what to do."""


class InputError(ValueError):
    """Raised for bad input: files, prompts, sizes, names, checkpoints. The message is one line."""
