"""What the outside is told: events and log lines, snapshots, mappings, history, notices."""
