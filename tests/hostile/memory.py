# error: MemoryError
def f(x):
    return len("x" * 10**10) and 42
