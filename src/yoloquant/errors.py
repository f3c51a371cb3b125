"""The one exception that is meant for users.

Everything a user can cause (a bad file, an unknown option, an empty data set) raises `YoloquantError`, whose message is one
clear sentence that says what is wrong and what to do. The command line prints that sentence and exits with code 2; any
other exception is a defect of this project and keeps its traceback.
"""


class YoloquantError(Exception):
    """Something the user gave cannot be used; the message says what and what to do about it."""


class CheckpointError(YoloquantError):
    """A model file cannot be read, or is refused because it names something that is not on the allow-list."""


class DataError(YoloquantError):
    """A data set, an image list or an annotation file cannot be used."""


class RecipeError(YoloquantError):
    """A recipe or an override of it is not valid."""


class ExportError(YoloquantError):
    """A network cannot be written to the asked format, or the written file does not answer as the network does."""
