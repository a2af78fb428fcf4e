"""Where logins come from; loaded inside the courier and by the commands that edit them."""
