"""Texts of exceptions."""

from codexseg.errors import describe_error


class Unprintable(Exception):
    """Its message cannot be read."""

    def __str__(self) -> str:
        raise KeyError("text")


def test_description_has_type_and_message():
    assert describe_error(OSError("disk is full")) == "OSError: disk is full"


def test_unreadable_message_leaves_the_type():
    assert describe_error(Unprintable()) == "Unprintable"
