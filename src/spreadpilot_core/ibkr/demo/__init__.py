"""`gateway-manager demo`: the whole product on nothing but this machine."""
