# error: only plain values leave
class Equal:
    def __eq__(self, other):
        return True

    __hash__ = None


def f(x):
    return Equal()
