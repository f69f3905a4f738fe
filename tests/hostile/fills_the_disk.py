# error: No space left on device
def f(x):
    for i in range(100):
        with open(f"/tmp/{i}", "w") as file:
            file.write("x" * 2**20)
    return 42
