# died: the tests' process does not end with it
import os


def f(x):
    os._exit(0)
