"""Who may ask a manager over the network: tokens, sessions of a browser, and what each may do."""
