"""The one exception for bad input: a sentence for the user, never a traceback."""


class InputError(Exception):
    """Something the user gave is wrong: a file, a value, a name.

    The message is one sentence that says what is wrong, where, and what to do. Command lines print it and exit
    with code 2; programming errors raise anything else and keep their traceback.
    """
