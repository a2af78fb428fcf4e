"""What a controller prints and what it ends with, read into one view of the login."""
