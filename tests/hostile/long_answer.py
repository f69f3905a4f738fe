# output
def f(x):
    return "x" * 3_000_000
