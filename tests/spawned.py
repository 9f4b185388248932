"""What a process that a test spawns can import by name."""


def one_of_two(process: int, folder: str) -> None:
    """One of the two processes that share the weights in test_logprobs."""
    import test_logprobs

    test_logprobs.one_of_two(process, folder)
