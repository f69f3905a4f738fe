# error: File too large
def f(x):
    with open("/tmp/a", "w") as file:
        file.write("x" * 2**24)
    return 42
