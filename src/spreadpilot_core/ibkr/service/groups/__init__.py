"""Groups of commands, a module each; `cli` lists them."""
