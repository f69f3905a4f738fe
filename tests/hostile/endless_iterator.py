# wrong output
import itertools


def f(x):
    return itertools.count()
