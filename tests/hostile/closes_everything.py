# died
import os

os.closerange(0, 64)


def f(x):
    return 42
