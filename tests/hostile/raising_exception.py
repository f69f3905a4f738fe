# error
class Hostile(Exception):
    def __str__(self):
        raise Hostile


def f(x):
    raise Hostile
