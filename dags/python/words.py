"""What dags/mapped.yaml calls."""


def find(words):
    """The environment of each instance that is to come."""
    return [{"WORD": word} for word in words]
