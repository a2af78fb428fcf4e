"""The data that crosses seams: followers, gateways, logins, records, events, snapshots, reasons. No input and output."""
