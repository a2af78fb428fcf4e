"""The courier: the short-lived child process that alone ever holds a password."""
