"""A reporter that keeps what it is told."""

from yoloquant.progress import Silent


class Notes(Silent):
    """Keeps every note."""

    def __init__(self):
        self.told = []

    def note(self, message):
        self.told.append(message)
