"""The one exception that a person's mistake may raise."""


class UserError(Exception):
    """Something that the person who typed the command can put right, said in one sentence.

    Every command line prints it as a single line on stderr and exits with status 1.
    """
