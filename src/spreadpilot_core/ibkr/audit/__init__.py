"""The append-only trail, and the lines that the manager writes in it."""
