"""Long-lived parts shared by connections: routing, listeners, limits, reload, logs."""
