"""Every kind of bad input ends a program with the right exit code and one line: what, which value, what to do."""
