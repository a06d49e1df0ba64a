"""The one exception for bad input: a sentence for the user, never a traceback."""

from jellyplus._text import one_line

_LONGEST = 2000  # characters


class InputError(Exception):
    """Something the user gave is wrong: a file, a value, a name.

    The message is one sentence that says what is wrong, where, and what to do. Command lines print it and exit
    with code 2; programming errors raise anything else and keep their traceback. It stays one line and of moderate
    length whatever it quotes: what is not printable is escaped, and what is too long loses its middle.

    >>> print(InputError("there is no row a\\nb; choose from c"))
    there is no row a\\nb; choose from c
    """

    def __init__(self, sentence: str):
        line = one_line(sentence)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}")


class HandedOnError(InputError):
    """One that a process that loads data may raise.

    It is handed on as the text of its traceback (torch/_utils.py, ExceptionWrapper), whose last sentence is the message
    again.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence.rpartition(f"{type(self).__name__}: ")[2].strip())
