"""What the operating system gives and asks: files, watches, socket peers, terminals."""
