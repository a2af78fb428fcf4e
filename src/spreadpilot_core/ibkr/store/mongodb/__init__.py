"""The store in MongoDB, and the lease by which one of several managers leads."""
