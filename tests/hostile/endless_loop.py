# timeout died: the processor's limit may come first
while True:
    pass
